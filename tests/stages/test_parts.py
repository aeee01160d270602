"""Part by part gives what all at once gives, and a device never has more rows in hand than it may."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.parallel.mesh import Mesh
from t2i_jax.stages.parts import by_parts


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
