"""A model as a folder that the reference library loads with ``from_pretrained``, and back.

    export_model(model, params, "out/decoder")
    model, params = import_model("out/decoder")
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from t2i_jax.interop.configs import ARCHITECTURES, Architecture, Config, NoReferenceForm, shapes
from t2i_jax.interop.table import Arrays, to_ours, to_theirs
from t2i_jax.models.mmdit import MMDiT, position_table
from t2i_jax.models.prior import PriorTransformer
from t2i_jax.types import Params

POSITIONS = "pos_embed.pos_embed"
"""The reference's table of positions: a tensor there, computed here."""


def export_model(model: Any, params: Params, directory: str | Path, extra: Config | None = None) -> None:
    """Writes ``config.json`` and the weights (float32 safetensors) of one model.

    ``extra`` goes into the config. For a prior its entries ``clip_mean`` and ``clip_std`` [e] become tensors. Raises
    NoReferenceForm, a ValueError, for a model that no reference class can be, and writes nothing.
    """
    architecture = _of(model)
    directory, extra = Path(directory), dict(extra or {})
    config = architecture.to_config(model)  # first, for not every model has one
    tensors = to_theirs(architecture.rows(model), flatten(params)) | _buffers(model, extra)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / architecture.weights, metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config | extra, indent=2) + "\n")


def import_model(directory: str | Path) -> tuple[Any, Params]:
    """The model and its parameters from such a folder.

    Raises ValueError or FileNotFoundError naming what is wrong; also for one that would be another function here.
    """
    directory = Path(directory)
    path = directory / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"no config.json in {directory}: give a folder of diffusers or transformers form")
    config = json.loads(path.read_text())
    name = config.get("_class_name") or (config.get("architectures") or [None])[0]
    architecture = next((a for a in ARCHITECTURES if a.reference == name), None)
    if architecture is None:
        known = ", ".join(a.reference for a in ARCHITECTURES)
        raise ValueError(f"{path} is of class {name!r}; those that can be read are {known}")
    model = architecture.from_config(config)
    expected = {leaf: s.shape for leaf, s in flatten(shapes(model)).items()}
    theirs = load_file(directory / architecture.weights)
    if isinstance(model, MMDiT):
        _check_positions(model, theirs, path)
    ours = to_ours(architecture.rows(model), theirs, expected)
    return model, unflatten(ours)


def flatten(tree: Params) -> dict[str, Any]:
    """Nested dicts to one dict with names like ``blocks/qkv/kernel``."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}
    return {name: x if isinstance(x, jax.ShapeDtypeStruct) else np.asarray(x) for name, x in named.items()}


def unflatten(leaves: Arrays) -> Params:
    """The inverse of ``flatten``."""
    tree: Params = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def _of(model: Any) -> Architecture:
    for architecture in ARCHITECTURES:
        if type(model) is architecture.model:
            return architecture
    raise NoReferenceForm(f"{type(model).__name__} has no reference class in diffusers or transformers")


def _buffers(model: Any, extra: Config) -> Arrays:
    """Tensors of the reference that are no parameters of ours; takes theirs out of ``extra``."""
    if isinstance(model, MMDiT):
        return {POSITIONS: position_table(model.width, model.grid)[None]}
    if isinstance(model, PriorTransformer):
        e = model.embedding
        mean, std = extra.pop("clip_mean", np.zeros(e)), extra.pop("clip_std", np.ones(e))
        row = lambda x: np.asarray(x, np.float32).reshape(1, e)
        return {"clip_mean": row(mean), "clip_std": row(std)}
    return {}


def _check_positions(model: MMDiT, theirs: Arrays, path: Path) -> None:
    """Raise ValueError where the file has another table of positions than the model: its sinusoids are stretched by
    ``sample_size / patch_size`` over ``pos_embed_max_size``."""
    stored, computed = theirs.get(POSITIONS), position_table(model.width, model.grid)[None]
    if stored is None:
        return
    near = stored.shape == computed.shape and np.allclose(stored, computed, atol=1e-2)  # it may be in bfloat16
    if not near:
        raise ValueError(
            f"{path}: the weights' {POSITIONS!r} is not the table of this model, whose positions are whole numbers: "
            "only files where sample_size / patch_size equals pos_embed_max_size can be read"
        )
