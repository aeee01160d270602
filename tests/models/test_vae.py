"""The autoencoder's pieces are what they say (that it is the reference's function: tests/interop)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.models import vae
from t2i_jax.models.attention import attention
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


def test_attention_over_many_places_is_the_same(monkeypatch):
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 16))
    module = vae.SpatialAttention(groups=4)
    params = module.init(jax.random.key(1), x)
    loss = lambda params, x: jnp.square(module.apply(params, x)).sum()
    calls = []
    monkeypatch.setattr(vae, "attention", lambda *heads: calls.append(heads[0].shape) or attention(*heads))
    few = jax.value_and_grad(loss, (0, 1))(params, x)
    assert not calls
    monkeypatch.setattr(vae, "MANY", 24)
    many = jax.value_and_grad(loss, (0, 1))(params, x)
    assert calls == [(2, 24, 1, 16)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-5), few, many)
