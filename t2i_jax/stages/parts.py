"""A large batch a part at a time, where all of it at once would not fit into a device's memory; and each device's share
of a batch on that device alone."""

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from t2i_jax.models.dense import by_batch, divides, ways_of
from t2i_jax.types import BATCH_AXES, Params


def by_parts(function: Callable, rows: jax.Array, most: int):
    """``function(rows)``, of each device's share of the rows no more than ``most`` at once, but one.

    ``function`` takes [n, ...] and gives a tree of [n, ...], row by row. The backward pass computes each part again.
    Part i has the rows i, i + parts, ..., so that every device has some of each.
    """
    b = len(rows)
    share = b // ways_of(BATCH_AXES) if divides(BATCH_AXES, b) else b
    parts = next(n for n in range(1, share + 1) if share % n == 0 and (n == share or share // n <= most))
    if parts == 1:
        return function(rows)
    split = rows.reshape(b // parts, parts, *rows.shape[1:]).swapaxes(0, 1)
    made = jax.lax.map(jax.checkpoint(lambda part: function(by_batch(part))), split)
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(b, *x.shape[2:]), made)


def by_device(function: Callable, params: Params, rows: jax.Array, dtype: str):
    """``function(params, rows)``, each device's share of the rows on that device alone, with the kernels whole.

    ``function`` as in ``by_parts``; the kernels come to it in ``dtype``, in which it uses them. For frozen parameters:
    the gradient of a kernel would be summed whole. The TPU compiler's partitioner tears convolutions from the norms
    behind them: split by it, the VAE of the second upsampler moved twice as many bytes on v5e:16x16, as planned.
    """
    if not divides(BATCH_AXES, len(rows)):
        return function(params, rows)
    whole, split = PartitionSpec(), PartitionSpec(BATCH_AXES)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.ndim > 1 else leaf, params)
    return jax.shard_map(function, in_specs=(whole, split), out_specs=split, check_vma=False)(params, rows)
