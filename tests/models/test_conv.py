"""The doubling convolution is doubling, then convolving; gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.models.conv import Conv, DoublingConv


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 3, 5, 4), (2, 4, 4, 7)])
@pytest.mark.parametrize("features", [3, 6])
def test_equals_repeating_then_convolving(shape, features):
    x = jax.random.normal(jax.random.key(0), shape)
    plain, folded = Conv(features), DoublingConv(features)
    shapes = lambda model: jax.eval_shape(model.init, jax.random.key(2), x)
    assert shapes(plain) == shapes(folded)
    params = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape), shapes(plain))
    target = jax.random.normal(jax.random.key(3), (shape[0], 2 * shape[1], 2 * shape[2], features))

    def outputs_and_grads(apply):
        loss = lambda p, x: ((y := apply(p, x)) * target).sum() + jnp.square(y).sum()
        return jax.jit(apply)(params, x), jax.jit(jax.grad(loss, argnums=(0, 1)))(params, x)

    repeated = lambda p, x: plain.apply(p, x.repeat(2, axis=1).repeat(2, axis=2))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    jax.tree.map(close, outputs_and_grads(folded.apply), outputs_and_grads(repeated))
