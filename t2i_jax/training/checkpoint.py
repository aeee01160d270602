"""Saving and restoring with Orbax.

A checkpoint is one directory ``checkpoints/<step>/`` of three named items, committed together or not at all: ``train``
(step, parameters, optimizer moments), ``ema`` (the averaged parameters alone, which is all that later stages and
sampling read) and ``meta`` (JSON: config, versions, what the stage was trained on). Saving is asynchronous: the arrays
are copied, the files are written while training goes on. Named items and a trash folder for expired checkpoints keep
what a killed process leaves behind from being taken for a checkpoint.

    saver = Saver(run.checkpoints, keep=3)
    saver.save(step, state, meta)
    state = saver.restore(abstract_state)                # the newest, onto any mesh
    params, step = load_params("RUN/vae")                # the average alone, as numpy arrays
"""

import importlib.metadata
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from t2i_jax.training.state import TrainState
from t2i_jax.types import Params

_TRASH = "trash"
_PACKAGES = ("t2i_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class Saver:
    """The checkpoints of one training; ``keep`` newest stay. Close it before the process ends."""

    def __init__(self, directory: Path, keep: int):
        self.directory = Path(directory).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, todelete_subdir=_TRASH, create=True
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=("train", "ema", "meta"))
        self._sweep()

    def latest(self) -> int | None:
        """Step of the newest checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, meta: dict[str, Any]) -> None:
        """Start saving ``state`` as step ``step``; the state may be donated as soon as this returns.

        A checkpoint of the same step is replaced (that of a training which was stopped just before its last rites).
        """
        self._sweep()
        if step in self._manager.all_steps():
            self.wait()
            self._manager.delete(step)
        items = state.items()
        ema = items.pop("ema")
        args = ocp.args.Composite(
            train=ocp.args.StandardSave(items), ema=ocp.args.StandardSave(ema), meta=ocp.args.JsonSave(meta)
        )
        if not self._manager.save(step, args=args, force=True):
            raise RuntimeError(f"the checkpoint of step {step} was not saved in {self.directory}")

    def restore(self, abstract: TrainState) -> TrainState:
        """The newest state, placed by the shardings of ``abstract`` (ShapeDtypeStructs), whatever mesh it came from."""
        items = abstract.items()
        ema = items.pop("ema")
        args = ocp.args.Composite(train=ocp.args.StandardRestore(items), ema=ocp.args.StandardRestore(ema))
        found = self._manager.restore(self.latest(), args=args)
        return TrainState(ema=found["ema"], **found["train"])

    def meta(self) -> dict[str, Any]:
        """Metadata of the newest checkpoint."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._manager.restore(self.latest(), args=args)["meta"]

    def wait(self) -> None:
        """Return when everything is on disk; raises what went wrong in the background."""
        self._manager.wait_until_finished()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.wait()
        self._sweep()
        self._manager.close()

    def _sweep(self) -> None:
        """Empty the trash, which Orbax fills and never empties."""
        trash = self.directory / _TRASH
        if jax.process_index() == 0 and trash.is_dir():
            for expired in trash.iterdir():
                shutil.rmtree(expired, ignore_errors=True)


def steps_saved(stage_dir: str | Path) -> list[int]:
    """Steps of the committed checkpoints of ``RUN/<stage>``, ascending; [] where there is none."""
    directory = Path(stage_dir).absolute() / "checkpoints"
    found = [entry for entry in directory.glob("*") if entry.name.isdigit()] if directory.is_dir() else []
    return sorted(int(entry.name) for entry in found if ocp.path.step.is_path_finalized(entry))


def load_params(stage_dir: str | Path, step: int | None = None) -> tuple[Params, int]:
    """The averaged parameters of ``RUN/<stage>`` as numpy arrays, and their step (the newest unless given).

    Reads nothing else of the checkpoint, so it needs the memory of the parameters alone, on any number of devices.
    Raises FileNotFoundError where there is no such checkpoint.
    """
    path, step = _item(stage_dir, step, "ema")
    reader = ocp.PyTreeCheckpointHandler()
    numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(path).tree)
    return reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=numpy)), step


def load_state(stage_dir: str | Path, abstract: TrainState, step: int) -> TrainState:
    """The whole state of ``RUN/<stage>`` at ``step``, placed by the shardings of ``abstract``.

    Writes nothing, so it may look at a run that is being trained. Raises FileNotFoundError where there is none.
    """
    items = abstract.items()
    ema = items.pop("ema")
    read = lambda item, target: ocp.StandardCheckpointHandler().restore(
        _item(stage_dir, step, item)[0], args=ocp.args.StandardRestore(target)
    )
    return TrainState(ema=read("ema", ema), **read("train", items))


def load_meta(stage_dir: str | Path, step: int | None = None) -> dict[str, Any]:
    """What ``Saver.save`` was given as ``meta``, of the newest checkpoint of ``RUN/<stage>`` unless a step is named."""
    return ocp.JsonCheckpointHandler().restore(_item(stage_dir, step, "meta")[0])


def _item(stage_dir: str | Path, step: int | None, item: str) -> tuple[epath.Path, int]:
    steps = steps_saved(stage_dir)
    if not steps or (step is not None and step not in steps):
        have = f"it has steps {', '.join(map(str, steps))}" if steps else "it has none"
        what = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise FileNotFoundError(f"{stage_dir} has {what}; {have}. Train the stage first (t2i train CONFIG).")
    step = steps[-1] if step is None else step
    return epath.Path(Path(stage_dir).absolute() / "checkpoints" / str(step) / item), step


def versions() -> dict[str, str]:
    """Versions of the packages that decide a training's numbers."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
