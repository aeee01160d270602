"""Parameters of earlier stages that a stage reads and does not train.

``load_frozen(stage, root, rng, batch)`` gives ``{name: averaged parameters}`` for ``stage.reads``, checked against what
the stage expects before any minute of training is spent.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from t2i_jax.parallel.rules import leaf_name
from t2i_jax.stages.base import Stage
from t2i_jax.text import Tokenizer
from t2i_jax.training.appender import say
from t2i_jax.training.checkpoint import load_meta, load_params, steps_saved
from t2i_jax.training.run import Run
from t2i_jax.training.serialize import ConfigError, decode
from t2i_jax.types import Params


def load_frozen(stage: Stage, root: Path, rng: Array, batch: dict[str, Any]) -> dict[str, Params]:
    """Averaged parameters (numpy) of every stage that ``stage`` reads, from the run directory ``root``.

    ``batch`` gives the shapes alone. Raises FileNotFoundError for a stage that has not been trained and ValueError for
    one that is not finished or read other tokens, and for a leaf that is missing, unexpected or of the wrong shape.
    """
    missing = [name for name in stage.reads if not steps_saved(root / name)]
    if missing:
        places = ", ".join(str(root / name) for name in missing)
        raise FileNotFoundError(
            f"the stage {stage.name!r} reads {', '.join(map(repr, missing))}, and there is no checkpoint in {places}. "
            f"Train it first, into the same run directory: t2i train CONFIG --run {root}, with the config of "
            f"{missing[0]!r} that belongs to this one"
        )
    loaded = {name: load_params(root / name) for name in stage.reads}
    frozen = {name: params for name, (params, _) in loaded.items()}
    metas = {name: load_meta(root / name, step) for name, (_, step) in loaded.items()}
    for name, meta in metas.items():
        if not meta["finished"]:
            raise ValueError(
                f"the stage {stage.name!r} reads {name!r}, and the training of that is not finished: {root / name} is "
                f"at step {loaded[name][1]} of {meta['config']['steps']}. Go on with it first: t2i train CONFIG --run "
                f"{root}, with the config of {name!r}"
            )
    check_tokenizer(root, metas, stage.name)
    expected = jax.eval_shape(stage.expects, rng, batch) if stage.reads else {}
    for name, tree in expected.items():
        check_tree(frozen[name], tree, f"{root / name} (read by the stage {stage.name!r})")
    return frozen


def load_together(root: Path, names: Iterable[str]) -> tuple[dict[str, Params], dict[str, int]]:
    """Averaged parameters (numpy) of stages in the run directory ``root`` that work together, and the step of each.

    Raises FileNotFoundError for a stage that has not been trained and ValueError for one that was trained on another
    version of a stage, or on another tokenizer, than ``root`` has now. Says on stderr which is not finished.
    """
    params, steps, metas = {}, {}, {}
    for name in names:
        params[name], steps[name] = load_params(root / name)
        metas[name] = load_meta(root / name, steps[name])
        if not metas[name]["finished"]:
            total = metas[name]["config"]["steps"]
            say(f"the training of {root / name} is not finished: step {steps[name]} of {total} is used")
    check_tokenizer(root, metas)
    now = {name: digest(tree) for name, tree in params.items()}
    for name in params:
        for read, then in metas[name]["made_from"].items():
            if now.get(read, then) != then:
                raise ValueError(
                    f"{root / name} was trained on another {read!r} than the one in {root / read}: their latents or "
                    f"embeddings do not fit. Put the old {read!r} back, or delete {root / name} and train it again"
                )
    return params, steps


def check_tokenizer(root: Path, metas: Mapping[str, dict[str, Any]], reader: str = "") -> None:
    """Raise ValueError where a stage, by name with its checkpoint's metadata, learnt other tokens than ``root`` has.

    ``reader``: the stage that is about to read them, for the message.
    """
    path = Run(root, "").tokenizer
    known = {name: meta["made_from"]["tokenizer"] for name, meta in metas.items() if _reads_tokens(meta["config"])}
    if not known:
        return
    now = Tokenizer.load(path).digest
    for name, then in known.items():
        if then != now:
            more = f", and {reader!r} would read it by this one" if reader else ""
            raise ValueError(
                f"{path} is not the tokenizer that {name!r} in {root / name} was trained with{more}: the same words "
                f"have other numbers. Put the old file back (its SHA-256 is {then}), or delete {root / name} and train "
                "it again"
            )


def _reads_tokens(config: dict[str, Any]) -> bool:
    """Whether a stage of this config reads tokens of its own, not through another stage."""
    try:
        return decode(config["stage"]).vocabulary() is not None
    except ConfigError:  # a class from outside t2i_jax, of which nothing is known
        return True


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
