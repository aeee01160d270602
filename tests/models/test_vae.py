"""The autoencoder's pieces are what they say (that it is the reference's function: tests/interop)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.models.vae import AutoencoderKL, sample


def test_sample_has_mean_and_variance_of_the_posterior():
    mean, logvar = jnp.full((1, 100, 100, 1), 3.0), jnp.full((1, 100, 100, 1), 2 * np.log(0.5))
    drawn = sample(mean, logvar, jax.random.key(0))
    assert abs(float(drawn.mean()) - 3.0) < 0.02 and abs(float(drawn.std()) - 0.5) < 0.02


def test_picture_that_does_not_divide_is_named():
    with pytest.raises(ValueError, match="33x32.*multiples of 8"):
        jax.eval_shape(AutoencoderKL().init, jax.random.key(0), jnp.zeros((1, 33, 32, 3)))


def test_groups_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="groups=16"):
        AutoencoderKL(channels=(24, 32))
