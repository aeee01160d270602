"""What `t2i ckpt list | verify | diff` do."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from t2i_jax.parallel.rules import leaf_name
from t2i_jax.training.checkpoint import load_meta, load_params, steps_saved
from t2i_jax.training.experiment import Checkpoints
from t2i_jax.training.manifest import OtherForm, check, read_manifest
from t2i_jax.training.serialize import differences
from t2i_jax.training.shelf import REJECTED, kept
from t2i_jax.types import Params

Stage = Annotated[str, tyro.conf.Positional]


def list_checkpoints(stage: Stage, hash: bool = True) -> None:
    """Show the checkpoints of RUN/STAGE: when and how large, whether they are whole, why they stay.

    Args:
        stage: RUN/STAGE.
        hash: Read every byte to see whether it is as it was written; without, only the manifests are read.
    """
    directory = _directory(stage)
    why = kept(steps_saved(stage), *_kept_by(Path(stage) / "config.json"))
    for step in steps_saved(stage):
        path = directory / str(step)
        faults = _faults(path, None if hash else ())
        state = "DAMAGED" if faults else ("verified" if hash else "not read")
        print(f"{step:>9}  {_saved_at(path)}  {_size(path):>9}  {state:8}  {why.get(step, 'goes with the next save')}")
        for fault in faults:
            print(f"           {fault}")
    for path in sorted((directory / REJECTED).glob("*")):
        print(f"{path.name:>9}  {_saved_at(path)}  {_size(path):>9}  set aside as damaged: {path}")


def verify(stage: Stage, step: int | None = None) -> int:
    """Read every byte of RUN/STAGE's checkpoints, or of one; exits with 1 where one isn't what was written.

    Args:
        stage: RUN/STAGE.
        step: The one step to look at; default all.
    """
    directory, there = _directory(stage), steps_saved(stage)
    if step is not None and step not in there:
        raise FileNotFoundError(f"{stage} has no checkpoint of step {step}; it has {', '.join(map(str, there))}")
    damaged = 0
    for one in there if step is None else [step]:
        path = directory / str(one)
        faults = _faults(path)
        damaged += bool(faults)
        print(
            f"step {one} is DAMAGED"
            if faults
            else f"step {one} is whole: {len(read_manifest(path)['files'])} files, {_size(path)}"
        )
        for fault in faults:
            print(f"  {fault}")
    return 1 if damaged else 0


def diff(a: Stage, b: Stage, leaves: int = 20) -> None:
    """Show what differs between two checkpoints: config, versions, inputs, and the averaged parameters leaf by leaf.

    Args:
        a: RUN/STAGE, the newest that is whole, or RUN/STAGE@STEP.
        b: The same of the other.
        leaves: How many of the differing leaves are shown, those first that differ most for their size.
    """
    (first, one, meta_one), (second, two, meta_two) = map(_read, (a, b))
    print(f"A: {first}\nB: {second}")
    for title, key in (("config", "config"), ("inputs", "made_from"), ("versions", "versions"), ("machine", "machine")):
        changed = list(differences(meta_one.get(key, {}), meta_two.get(key, {})))
        print(f"{title}: {'the same' if not changed else ''}")
        for name, old, new in changed:
            print(f"  {name}: {json.dumps(old)} -> {json.dumps(new)}")
    for line in compare(one, two, leaves):
        print(line)


def compare(one: Params, two: Params, leaves: int = 20) -> Iterator[str]:
    """What differs between two trees of arrays, a line a leaf; the last line sums up.

    A difference is given as the largest of an element, and as its norm over that of the larger leaf.
    """
    leaves_of = jax.tree_util.tree_leaves_with_path
    a, b = ({leaf_name(path): np.asarray(leaf) for path, leaf in leaves_of(tree)} for tree in (one, two))
    for name in sorted(a.keys() ^ b.keys()):
        where, leaf = ("A", a[name]) if name in a else ("B", b[name])
        yield f"  {name}: only in {where} {leaf.dtype}{list(leaf.shape)}"
    rows, same, total = [], 0, len(a.keys() & b.keys())
    for name in sorted(a.keys() & b.keys()):
        x, y = a[name], b[name]
        if x.shape != y.shape or x.dtype != y.dtype:
            yield f"  {name}: {x.dtype}{list(x.shape)} in A, {y.dtype}{list(y.shape)} in B"
        elif x.tobytes() == y.tobytes():
            same += 1
        else:
            x, y = x.astype(np.float64), y.astype(np.float64)
            relative = np.linalg.norm(x - y) / max(np.linalg.norm(x), np.linalg.norm(y))
            rows.append((float(relative), float(np.abs(x - y).max()), name))
    for relative, most, name in sorted(rows, reverse=True)[:leaves]:
        yield f"  {name}: at most {most:.3g} apart, {relative:.3g} of the norm"
    if len(rows) > leaves:
        yield f"  and {len(rows) - leaves} more leaves that differ less"
    alike = same == total == len(a.keys() | b.keys())
    yield f"parameters: {'equal bit for bit' if alike else f'{same} of {total} common leaves are equal bit for bit'}"


def _faults(path: Path, items: Sequence[str] | None = None) -> list[str]:
    """What is wrong with a step, or keeps it from being read."""
    try:
        return check(path, items)
    except (OSError, OtherForm) as error:
        return [str(error)]


def _read(place: str) -> tuple[str, Params, dict[str, Any]]:
    stage, _, step = place.partition("@")
    if step and not step.isdigit():
        raise ValueError(f"{place}: expected RUN/STAGE or RUN/STAGE@STEP with a number")
    params, found = load_params(stage, int(step) if step else None)
    return f"{stage}, step {found}", params, load_meta(stage, found)


def _directory(stage: str) -> Path:
    directory = Path(stage) / "checkpoints"
    if not steps_saved(stage) and not (directory / REJECTED).exists():
        raise FileNotFoundError(f"{stage} has no checkpoints: name the directory of a stage, RUN/STAGE")
    return directory


def _kept_by(config: Path) -> list[int]:
    """``keep``, ``keep_period`` and ``every`` of the training that the config describes; else the defaults."""
    saved = json.loads(config.read_text()).get("checkpoints", {}) if config.exists() else {}
    return [saved.get(name, getattr(Checkpoints, name)) for name in ("keep", "keep_period", "every")]


def _saved_at(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M:%S")


def _size(path: Path) -> str:
    total = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return f"{total / 1e6:,.1f} MB"
