"""What a stage can't do is told when it is asked for, and not after the last step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.diffusion.process import Clean, LossIn, MinSNR, Noise, Process
from t2i_jax.diffusion.schedules import Cosine
from t2i_jax.models.vae import AutoencoderKL
from t2i_jax.stages import PriorStage, VAEStage
from t2i_jax.stages.latents import downscale


def pixels(*shape):
    return jax.ShapeDtypeStruct((2, *shape, 3), jnp.uint8)


@pytest.mark.parametrize("crop", [0, 100])
@pytest.mark.parametrize("shape", [(200, 200), (200, 96), (96, 200)])
def test_a_vae_refuses_pictures_whose_smaller_ones_it_could_not_encode(shape, crop):
    stage = VAEStage(model=AutoencoderKL(channels=(4, 4, 4, 4), groups=4), crop=crop)  # factor 8, the picture's half
    with pytest.raises(ValueError, match=f"{shape[0]}x{shape[1]}: both sides must be multiples of 16"):
        jax.eval_shape(lambda image: stage.views(jax.random.key(0), image), pixels(*shape))
    assert jax.eval_shape(lambda image: stage.views(jax.random.key(0), image), pixels(96, 64)).shape[-1] == 3


@pytest.mark.parametrize("b", [1, 2, 3])
def test_a_vae_sees_pictures_at_both_scales_in_batches_of_any_size(b):
    stage = VAEStage(model=AutoencoderKL(channels=(4, 4), groups=4), crop=4)
    image = jnp.indices((8, 8)).sum(0)[None, :, :, None].repeat(b, 0).repeat(3, 3).astype(jnp.uint8)
    views = jax.jit(lambda key: stage.views(key, image))
    steps = np.stack([jnp.diff(views(jax.random.key(n)), axis=1)[:, 0, 0, 0] for n in range(200)])
    small = np.isclose(steps, 2 / 127.5, atol=1e-6)
    assert (small | np.isclose(steps, 1 / 127.5, atol=1e-6)).all()
    assert 0.4 < small.mean() < 0.6


def test_a_factor_that_does_not_divide_a_picture_is_told():
    with pytest.raises(ValueError, match="64x64 can't be made 3 times smaller"):
        jax.eval_shape(lambda image: downscale(image, 3), pixels(64, 64))


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_a_smaller_picture_has_the_rounded_means_of_squares(factor):
    image = np.random.default_rng(factor).integers(0, 256, (2, 12, 24, 3), np.uint8)
    squares = image.reshape(2, 12 // factor, factor, 24 // factor, factor, 3)
    np.testing.assert_array_equal(downscale(jnp.asarray(image), factor), np.round(squares.mean((2, 4), np.float64)))


@pytest.mark.parametrize("process", [Process(Cosine(), Noise()), Process(Cosine(), Clean(), LossIn()),
                                     Process(Cosine(), Clean(), MinSNR())])  # fmt: skip
def test_a_prior_refuses_a_process_that_it_would_pass_over(process):
    with pytest.raises(ValueError, match="the prior predicts the clean embedding with equal weights"):
        PriorStage(process=process).loss({}, {}, jax.random.key(0), {})
