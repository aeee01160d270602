"""One ordered table that says where every leaf of the training state lives.

A rule is a regular expression over the leaf's name and a PartitionSpec for its *last* dimensions; leading dimensions
(the depth of a scanned stack, the window of a convolution) are never split. The first match wins. The optimizer's
moments and the average end in their parameter's name, so they follow its row. Kernels are [in, out]; those that write
back to a block's residual stream are split over ``model`` the other way round, so that tensor parallelism needs one
reduction for each pair. ``data`` splits the rows of both: split by columns, TPUs' compiler sums whole gradients
(all-reduce) where each device needs its share of the sum alone (reduce-scatter).

    shardings(jax.eval_shape(init), mesh)         # the same tree of NamedShardings

Raises ValueError, naming the leaf, where no rule matches or an axis does not divide its dimension.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from t2i_jax.types import Params

P = PartitionSpec
Rules = Sequence[tuple[str, PartitionSpec]]

FEW = r"(^|/)(context_)?modulation/kernel$"
"""Kernels that meet one row an example: the rows go to their shards, and they are never gathered. Not over ``model``:
a block cuts their columns into shifts, scales and gates, and split over replica, data and model at once the compiler's
gradients of tiny decoders were wrong (2 x 2 x 2 CPU devices, jaxlib 0.10.2; tests/parallel/test_gradients.py)."""

CONVOLVES = r"(^|/)(level_\d+|middle)/.*kernel$|(^|/)((post_)?quant_)?conv(_?\d+)?/kernel$"
"""Kernels of VAE and discriminator. Not over ``model``: they come in no pairs that need one reduction, and gradients
were wrong as those of FEW."""

RULES: Rules = (
    (r"(^|/)(step|count|ns_coeffs)$", P()),
    (r"(^|/)(bias|scale|mean|std|logit_scale|logit_bias|class|query|position)$", P()),
    (r"(^|/)(token|embedding)$", P("data", None)),
    (r"(^|/)(patches|conv_in)/kernel$", P(None, "data")),  # few channels in
    (r"(^|/)conv_out/kernel$", P("data", None)),  # few channels out
    (CONVOLVES, P("data", None)),
    (r"(blocks|last|attention)/(context_)?((attention_)?out|fc2)/kernel$", P(("model", "data"), None)),
    (FEW, P(None, "data")),
    (r"(^|/)kernel$", P("data", "model")),
)

SMALL = 2**14
"""Leaves of fewer elements are held whole by every device: splitting them costs more messages than it saves memory."""


def leaf_name(path: tuple) -> str:
    """``params/blocks/mlp/kernel`` for a path of ``jax.tree_util``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def shardings(tree: Params, mesh: jax.sharding.Mesh, rules: Rules = RULES) -> Params:
    """The NamedSharding of every leaf of ``tree`` (arrays or ShapeDtypeStructs), as a tree of the same shape."""

    def place(path: tuple, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, leaf_spec(leaf_name(path), leaf.shape, dict(mesh.shape), rules))

    return jax.tree_util.tree_map_with_path(place, tree)


def leaf_spec(name: str, shape: tuple[int, ...], axes: dict[str, int], rules: Rules = RULES) -> PartitionSpec:
    """The full PartitionSpec of one leaf on a mesh with these axis sizes."""
    spec = next((spec for pattern, spec in rules if re.search(pattern, name)), None)
    if spec is None:
        raise ValueError(
            f"no sharding rule matches the leaf {name!r} of shape {shape}. Add a row for it to RULES in "
            "t2i_jax/parallel/rules.py (PartitionSpec() holds it whole on every device)."
        )
    if math.prod(shape) < SMALL:
        return P()
    if len(spec) > len(shape):
        raise ValueError(f"the rule {spec} for the leaf {name!r} has more dimensions than its shape {shape}")
    full = (None,) * (len(shape) - len(spec)) + tuple(spec)
    for dimension, (size, axis) in enumerate(zip(shape, full)):
        together = axis if isinstance(axis, tuple) else (axis,) if axis else ()
        ways = math.prod(axes[one] for one in together)
        if size % ways:
            what = " × ".join(f"{one!r} ({axes[one]})" for one in together)
            raise ValueError(
                f"the leaf {name!r} of shape {shape}: dimension {dimension} ({size}) is not divisible by the mesh axis "
                f"{what}. Choose a size that {ways} divides, or a smaller mesh.{together[0]}."
            )
    return P(*full)
