"""A large batch a part at a time, where all of it at once would not fit into a device's memory."""

import math
from collections.abc import Callable

import jax

from t2i_jax.models.dense import by_batch
from t2i_jax.types import BATCH_AXES


def by_parts(function: Callable, rows: jax.Array, most: int):
    """``function(rows)``, of each device's share of the rows no more than ``most`` at once, but one.

    ``function`` takes [n, ...] and gives a tree of [n, ...], row by row. The backward pass computes each part again.
    Part i has the rows i, i + parts, ..., so that every device has some of each.
    """
    b, mesh = len(rows), jax.sharding.get_abstract_mesh()
    ways = 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    share = b // ways if b % ways == 0 else b
    parts = next(n for n in range(1, share + 1) if share % n == 0 and (n == share or share // n <= most))
    if parts == 1:
        return function(rows)
    split = rows.reshape(b // parts, parts, *rows.shape[1:]).swapaxes(0, 1)
    made = jax.lax.map(jax.checkpoint(lambda part: function(by_batch(part))), split)
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(b, *x.shape[2:]), made)
