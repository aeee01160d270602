"""The Fréchet distance where it has a closed form."""

import numpy as np
import pytest
from scipy import linalg

from t2i_jax.evaluation import Extractor, frechet_distance, frechet_from_moments, moments, random_convolutions


def rotation(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def test_one_dimension():
    assert frechet_from_moments(np.array([1.0]), np.array([[4.0]]), np.array([4.0]), np.array([[25.0]])) == 9 + 9


def test_equal_sets_have_distance_zero():
    features = np.random.default_rng(0).normal(size=(50, 8))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-10)


def test_a_shift_costs_its_square_whatever_the_covariance():
    features = np.random.default_rng(0).normal(size=(200, 6)) @ rotation(6)
    shift = np.array([3.0, 0, 0, 4.0, 0, 0])
    assert frechet_distance(features, features + shift) == pytest.approx(25.0, rel=1e-9)


def test_commuting_covariances():
    q, mean = rotation(5), np.zeros(5)
    a, b = np.array([1.0, 4, 9, 16, 0]), np.array([4.0, 1, 25, 16, 9])
    expected = ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_from_moments(mean, q * a @ q.T, mean, q * b @ q.T) == pytest.approx(expected, rel=1e-10)


def test_covariances_that_do_not_commute_agree_with_the_matrix_square_root():
    random = np.random.default_rng(0)
    a, b = (random.normal(size=(40, 6)) for _ in range(2))
    (m1, c1), (m2, c2) = moments(a), moments(b * [1, 2, 3, 4, 5, 6])
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)
    assert frechet_from_moments(m1, c1, m2, c2) == pytest.approx(expected, rel=1e-9)


def test_it_is_symmetric_and_finite_with_fewer_pictures_than_features():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(5, 40)), random.normal(size=(7, 40))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)


def test_moments_are_exact_far_from_the_origin_even_from_float32():
    features = np.random.default_rng(0).normal(size=(100, 3))
    far = (features + 4096.0).astype(np.float32)
    np.testing.assert_allclose(moments(far)[1], np.cov(far.astype(np.float64).T), rtol=1e-10)


def test_one_picture_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2"):
        moments(np.zeros((1, 3)))


def test_the_fixed_extractor_never_changes_and_tells_pictures_apart():
    extractor = random_convolutions()
    ramp = np.broadcast_to(np.arange(0, 256, 4, dtype=np.uint8)[:, None, None], (64, 64, 3))
    features = extractor(np.stack([ramp, ramp[::-1], 255 - ramp * 0]))
    assert features.shape == (3, 224)
    assert len({round(float(row.sum()), 6) for row in features}) == 3
    # a change here breaks the comparison with every report written before
    np.testing.assert_allclose(features[0, [0, 100, 223]], [0.40362239, 0.71484111, 0.73747869], rtol=1e-6)


def test_features_that_are_not_finite_are_refused_by_name():
    with pytest.raises(ValueError, match="'broken'"):
        Extractor("broken", lambda images: np.full((len(images), 2), np.nan))(np.zeros((2, 8, 8, 3), np.uint8))
