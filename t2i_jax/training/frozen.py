"""Parameters of earlier stages that a stage reads and does not train.

``load_frozen(stage, root, rng, batch)`` gives ``{name: averaged parameters}`` for ``stage.reads``, checked against what
the stage expects before any minute of training is spent.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from t2i_jax.parallel.rules import leaf_name
from t2i_jax.stages.base import Stage
from t2i_jax.training.checkpoint import load_meta, load_params, steps_saved
from t2i_jax.types import Params


def load_frozen(stage: Stage, root: Path, rng: Array, batch: dict[str, Any]) -> dict[str, Params]:
    """Averaged parameters (numpy) of every stage that ``stage`` reads, from the run directory ``root``.

    ``batch`` gives the shapes alone. Raises FileNotFoundError for a stage that has not been trained and ValueError for
    a leaf that is missing, unexpected or of the wrong shape.
    """
    missing = [name for name in stage.reads if not steps_saved(root / name)]
    if missing:
        places = ", ".join(str(root / name) for name in missing)
        raise FileNotFoundError(
            f"the stage {stage.name!r} reads {', '.join(map(repr, missing))}, and there is no checkpoint in {places}. "
            f"Train it first, into the same run directory: t2i train configs/emoji/{missing[0]}.py --run {root}"
        )
    frozen = {name: load_params(root / name)[0] for name in stage.reads}
    expected = jax.eval_shape(stage.expects, rng, batch) if stage.reads else {}
    for name, tree in expected.items():
        check_tree(frozen[name], tree, f"{root / name} (read by the stage {stage.name!r})")
    return frozen


def load_together(root: Path, names: Iterable[str]) -> tuple[dict[str, Params], dict[str, int]]:
    """Averaged parameters (numpy) of stages in the run directory ``root`` that work together, and the step of each.

    Raises FileNotFoundError for a stage that has not been trained and ValueError for one that was trained on another
    version of a stage than ``root`` has now.
    """
    params, steps = {}, {}
    for name in names:
        params[name], steps[name] = load_params(root / name)
    now = {name: digest(tree) for name, tree in params.items()}
    for name in params:
        for read, then in load_meta(root / name, steps[name])["made_from"].items():
            if now.get(read, then) != then:
                raise ValueError(
                    f"{root / name} was trained on another {read!r} than the one in {root / read}: their latents or "
                    f"embeddings do not fit. Put the old {read!r} back, or delete {root / name} and train it again"
                )
    return params, steps


def check_tree(found: Params, expected: Params, where: str) -> None:
    """Raise ValueError naming the first leaf of ``found`` that is not as in ``expected`` (arrays or their shapes)."""
    have, want = _shapes(found), _shapes(expected)
    for name in want | have:
        if name not in have:
            raise ValueError(f"{where}: the parameter {name!r} of shape {want[name]} is missing{_FIX}")
        if name not in want:
            raise ValueError(f"{where}: there is a parameter {name!r} of shape {have[name]} that is not expected{_FIX}")
        if have[name] != want[name]:
            raise ValueError(f"{where}: the parameter {name!r} has shape {have[name]}, expected {want[name]}{_FIX}")


_FIX = ". The stage was trained at another size than this config says: make the two configs agree, or train it again."


def digest(tree: Params) -> str:
    """SHA-256 (hex) of a tree of arrays: every leaf's name, dtype, shape and bytes."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        total.update(f"{leaf_name(path)}:{array.dtype}:{array.shape};".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def _shapes(tree: Params) -> dict[str, tuple[int, ...]]:
    return {leaf_name(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
