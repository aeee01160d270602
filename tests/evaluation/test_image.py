"""PSNR and SSIM against cases that can be worked out by hand."""

import numpy as np
import pytest

from t2i_jax.evaluation import psnr, ssim
from t2i_jax.evaluation.measure import reconstruction

C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def flat(value, n=2):
    return np.full((n, 16, 20, 3), value, np.uint8)


def noise(seed, n=3):
    return np.random.default_rng(seed).integers(0, 256, (n, 24, 20, 3), dtype=np.uint8)


@pytest.mark.parametrize("difference", [1, 10, 255])
def test_psnr_of_a_constant_difference(difference):
    np.testing.assert_allclose(psnr(flat(0), flat(difference)), 20 * np.log10(255 / difference))


def test_psnr_does_not_wrap_around_in_uint8():
    np.testing.assert_allclose(psnr(flat(250), flat(5)), 20 * np.log10(255 / 245))


def test_psnr_of_equal_pictures_is_infinite_and_ssim_is_one():
    picture = noise(0)
    assert np.isposinf(psnr(picture, picture)).all()
    np.testing.assert_allclose(ssim(picture, picture), 1.0)


def test_one_picture_restored_exactly_leaves_the_mean_finite():
    a, b = np.concatenate([flat(0), flat(9)]), np.concatenate([flat(1), flat(9)])
    found = reconstruction(a, b)
    best = 20 * np.log10(255) + 10 * np.log10(a[0].size)
    pairs = [20 * np.log10(255)] * len(flat(0)) + [best] * len(flat(9))
    np.testing.assert_allclose(found["psnr"], np.mean(pairs))
    np.testing.assert_allclose(found["psnr_pooled"], 20 * np.log10(255) + 10 * np.log10(2), atol=0.01)


def test_ssim_of_flat_pictures_is_their_light_term():
    expected = (2 * 100 * 140 + C1) / (100**2 + 140**2 + C1)
    np.testing.assert_allclose(ssim(flat(100), flat(140)), expected)


def test_ssim_of_a_flat_picture_with_noise_of_the_same_mean_is_near_zero():
    checker = (np.indices((16, 20)).sum(0) % 2 * 200 + 28).astype(np.uint8)[None, :, :, None].repeat(3, 3)
    value = ssim(flat(128, 1), checker)[0]
    # variance of the checker pattern is 100^2 up to the window's tiny imbalance; covariance with a constant is 0
    np.testing.assert_allclose(value, C2 / (100**2 + C2), rtol=1e-2)


def test_ssim_is_symmetric_and_falls_with_noise():
    a = noise(0)
    little = np.clip(a + np.random.default_rng(1).normal(0, 10, a.shape), 0, 255).astype(np.uint8)
    much = np.clip(a + np.random.default_rng(1).normal(0, 60, a.shape), 0, 255).astype(np.uint8)
    np.testing.assert_allclose(ssim(a, little), ssim(little, a))
    assert (ssim(a, little) > ssim(a, much)).all()


def test_ssim_equals_the_plain_double_loop():
    a, b = noise(0, 1)[:, :13, :12], noise(1, 1)[:, :13, :12]
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window = (window / window.sum())[:, :, None]
    values = []
    for i in range(3):
        for j in range(2):
            x, y = (p[0, i : i + 11, j : j + 11].astype(float) for p in (a, b))
            mx, my = (window * x).sum((0, 1)), (window * y).sum((0, 1))
            vx, vy = (window * (x - mx) ** 2).sum((0, 1)), (window * (y - my) ** 2).sum((0, 1))
            both = (window * (x - mx) * (y - my)).sum((0, 1))
            values.append((2 * mx * my + C1) * (2 * both + C2) / ((mx**2 + my**2 + C1) * (vx + vy + C2)))
    np.testing.assert_allclose(ssim(a, b)[0], np.mean(values))


def test_ssim_refuses_pictures_smaller_than_its_window():
    with pytest.raises(ValueError, match="at least 11"):
        ssim(flat(0)[:, :8], flat(0)[:, :8])
