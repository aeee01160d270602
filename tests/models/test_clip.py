"""The text tower's table of tokens: split over the mesh, its gradient is scattered, and exact in half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from t2i_jax.models.clip import look_up
from t2i_jax.parallel.hlo import read
from t2i_jax.parallel.mesh import Mesh, split_batch


@pytest.mark.parametrize("mesh", [Mesh(data=8), Mesh(replica=2, data=2, model=2)])
def test_the_tables_gradient_is_scattered_and_is_that_of_one_device(mesh):
    table = jax.random.normal(jax.random.key(0), (64, 16))
    tokens = jax.random.randint(jax.random.key(1), (64, 50), 0, 64)
    target = jax.random.normal(jax.random.key(2), (64, 50, 16))
    gradient = jax.value_and_grad(lambda table, tokens: (look_up(table, tokens, "float32") * target).sum())
    alone, mesh = jax.jit(gradient)(table, tokens), mesh.build()
    rows = NamedSharding(mesh, P("data"))
    with jax.set_mesh(mesh):
        given = jax.device_put(table, rows), jax.device_put(tokens, split_batch(mesh))
        compiled = jax.jit(gradient, out_shardings=(None, rows)).lower(*given).compile()
        together = compiled(*given)
    messages = read(compiled.as_text(), dict(mesh.shape)).collectives
    large = [one.kind for one in messages if "data" in one.axes and one.bytes >= table.nbytes // 2]
    assert sorted(large) == ["all-gather", "reduce-scatter"]
    for a, b in zip(together, alone):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mesh", [Mesh(data=1), Mesh(data=8)])
def test_a_common_tokens_gradient_is_whole_in_half_precision(mesh):
    """In bfloat16 a sum of ones stops at 256."""
    mesh = mesh.build(jax.devices()[: abs(mesh.data)])
    with jax.set_mesh(mesh):
        gradient = jax.jit(jax.grad(lambda table, tokens: look_up(table, tokens, "bfloat16").sum()))
        found = gradient(jnp.ones((8, 2)), jnp.full((8, 1024), 3))
    np.testing.assert_array_equal(found[3], 8 * 1024)
