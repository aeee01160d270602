"""Part by part and device by device give what all at once gives; no device has more rows in hand than it may."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.models.dense import by_batch
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.stages.parts import by_device, by_parts


@pytest.mark.parametrize("ways", [1, 8])
@pytest.mark.parametrize("most, hand", [(6, 6), (5, 3), (2, 2), (1, 1), (0, 1)])
def test_parts_together_are_the_whole(ways, most, hand):
    rows, seen = jnp.arange(ways * 6 * 2.0).reshape(-1, 2), set()

    def function(part):
        seen.add(len(part) // ways)
        return {"sum": part.sum(1), "row": part[:, None] ** 2}

    value = lambda rows: by_parts(function, rows, most)
    slope = jax.grad(lambda rows: sum(leaf.sum() for leaf in jax.tree.leaves(value(rows))))
    with jax.set_mesh(Mesh(data=ways).build(jax.devices()[:ways])):
        found, gradient = jax.jit(lambda rows: (value(rows), slope(rows)))(rows)
    assert seen == {hand}
    jax.tree.map(np.testing.assert_array_equal, found, {"sum": rows.sum(1), "row": rows[:, None] ** 2})
    np.testing.assert_array_equal(gradient, 1.0 + 2.0 * rows)


@pytest.mark.parametrize("rows, hand", [(64, 8), (16, 2), (12, 12)])
def test_a_device_has_its_own_rows_and_whole_kernels_in_the_dtype_they_are_used_in(rows, hand):
    rows, seen = jnp.arange(rows * 2.0).reshape(-1, 2), []
    params = {"kernel": jnp.eye(2), "bias": jnp.ones(2)}

    def function(params, part):
        seen.append((part.shape, params["kernel"].shape, params["kernel"].dtype.name, params["bias"].dtype.name))
        return {"out": by_batch(part) @ params["kernel"].astype(jnp.float32) + params["bias"]}

    with jax.set_mesh(Mesh(data=4, replica=2).build()):
        found = jax.jit(lambda params, rows: by_device(function, params, rows, "bfloat16"))(params, rows)
    np.testing.assert_array_equal(found["out"], rows + 1)
    kernel = "float32" if hand == len(rows) else "bfloat16"
    assert set(seen) == {((hand, 2), (2, 2), kernel, "float32")}
