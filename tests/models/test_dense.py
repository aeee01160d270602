"""The dense layer is flax's, gradient included."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.models.dense import Dense


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("features", [3, 11])  # either side of the kernel's gradient may be the one transposed
@pytest.mark.parametrize("bias", [True, False])
def test_equals_flax(features, bias, dtype, tolerance):
    ours, flax = (kind(features, use_bias=bias, dtype=dtype) for kind in (Dense, nn.Dense))
    x = jax.random.normal(jax.random.key(0), (2, 5, 7))
    params = flax.init(jax.random.key(1), x)
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(1), x)) == jax.tree.map(jnp.shape, params)
    target = jax.random.normal(jax.random.key(2), (2, 5, features))

    def value_and_grads(module):
        return jax.jit(jax.value_and_grad(lambda p, x: (module.apply(p, x) * target).sum(), argnums=(0, 1)))(params, x)

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=10 * tolerance)
    jax.tree.map(close, value_and_grads(ours), value_and_grads(flax))
