"""What in a planned step should not be, each with what it is about.

    of_shards(params) + of_messages(summary, params) + of_waits(played) + of_memory(compiled, held)

``params``: shapes that carry their shardings.
"""

import math

import jax

from t2i_jax.parallel.hlo import Summary
from t2i_jax.parallel.rules import leaf_name
from t2i_jax.parallel.schedule import Played
from t2i_jax.training.compiled import Compiled
from t2i_jax.types import Params

TILE = (8, 128)
"""Rows and columns of the block in which a chip keeps an array's last two dimensions; what is smaller is padded."""
LARGE = 2**20
"""Bytes from which on a message counts."""


def of_shards(params: Params) -> list[str]:
    """Leaves that splitting has made narrower than the tile."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        shard = leaf.sharding.shard_shape(leaf.shape)
        rows = zip(shard[-2:], leaf.shape[-2:], TILE[-leaf.ndim :])
        if any(part < min(size, tile) for part, size, tile in rows):
            sizes = " × ".join(map(str, shard))
            found.append(f"shards of {leaf_name(path)} are {sizes}, below the {TILE[0]} × {TILE[1]} tile")
    return found


def of_messages(summary: Summary, params: Params) -> list[str]:
    """Large messages that nothing hides, or that bring every chip a whole sum; with the operation that each serves, and
    the leaves whose gradient it may be, by its size."""
    found = []
    sizes = {leaf_name(path): _sizes(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    for one in summary.collectives:
        fit = [name for name, known in sizes.items() if one.bytes in known]
        serves = ", ".join(filter(None, (one.source, f"as large as {' or '.join(fit)}" if fit else "")))
        where = (
            f"{one.kind} over {' × '.join(one.axes)} of {one.bytes / 2**20:.0f} MiB, {one.times} a step "
            f"({serves or 'the compiler names no operation'})"
        )
        if one.kind == "all-reduce" and "data" in one.axes and one.bytes > LARGE:
            gradient = fit and ("transpose(" in one.source or not one.source)
            what = "a gradient" if gradient else "a sum"
            found.append(f"the whole of {what} goes to every chip, which may need its share alone: {where}")
        elif one.waits and one.bytes > LARGE:
            found.append(f"nothing hides {where}")
    return found


def of_waits(played: Played) -> list[str]:
    """Messages that run beside other work, and are waited for during a hundredth of a step or more all the same."""
    return [
        f"{1e3 * late:.3g} of {1e3 * played.seconds:.4g} ms a chip waits for {one.kind} over {' × '.join(one.axes)} of "
        f"{one.bytes / 2**20:.0f} MiB ({one.source or 'the compiler names no operation'}): too little work is beside it"
        for one, late in played.waits
        if late > played.seconds / 100 and not one.waits
    ]


def of_memory(done: Compiled, held: dict[str, int]) -> list[str]:
    """A new state that does not take the old one's place."""
    state = sum(held[name] for name in ("params", "ema", "moments"))
    if done.aliased >= state:
        return []
    return [f"only {done.aliased / 2**20:.0f} of the state's {state / 2**20:.0f} MiB are updated in place"]


def _sizes(leaf: jax.ShapeDtypeStruct) -> set[int]:
    """Bytes of the leaf, or of one layer of a stack of them, in half and in single precision."""
    layer = math.prod(leaf.shape[1:]) if leaf.ndim > 2 else leaf.size
    return {size * width for size in (leaf.size, layer) for width in (2, 4)}
