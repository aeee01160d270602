"""Saving and restoring with Orbax, verified.

A checkpoint is one directory ``checkpoints/<step>/`` of three named items, committed together or not at all: ``train``
(step, parameters, optimizer moments), ``ema`` (the averaged parameters alone, which is all that later stages and
sampling read) and ``meta`` (JSON: config, versions, what the stage was trained on); beside them the manifest of
their files' digests, written before the directory gets its name. Saving is asynchronous: the arrays are copied, the
files are written and hashed while training goes on. What is read was verified first: a damaged checkpoint is named
and set aside, and the newest whole one is used.

    saver = Saver(run.checkpoints, keep=3)
    saver.save(step, state, meta)
    state = saver.restore(abstract_state)                # the newest, onto any mesh
    params, step = load_params("RUN/vae")                # the average alone, as numpy arrays
"""

import importlib.metadata
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from t2i_jax.parallel.hosts import announce, leader
from t2i_jax.training.appender import say
from t2i_jax.training.commit import Parts, Writer, check_renames, clear, discard, reason
from t2i_jax.training.manifest import check
from t2i_jax.training.shelf import DamagedCheckpoint, Rejected, kept, newest, set_aside, steps
from t2i_jax.training.state import TrainState
from t2i_jax.types import Params

EXIT_UNSAVED = 74
"""Exit code of a training that ended because its state could not be saved or its features not be kept (EX_IOERR: make
room, start it again)."""
SAVES_FAILED, REJECTED = "saves_failed", "checkpoints_rejected"
"""What is counted."""
_PACKAGES = ("t2i_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow", "cykooz-resizer")


class SaveFailed(OSError):
    """The state could not be saved, more often than is tolerated or at the end; earlier checkpoints are whole."""


class Saver:
    """The checkpoints of one training. Close it before the process ends; all processes call all of it alike.

    ``keep`` newest stay, the newest of every ``period`` steps (0: only those), and those that a roll-back needs, of the
    multiples of ``every``. So many saves in a row as ``tolerate`` says may fail; what they left is removed, and
    training goes on. ``report(counter, text)`` is told of
    everything that is wrong.
    """

    def __init__(self, directory: Path, keep: int, period: int = 0, tolerate: int = 3, every: int = 0):
        self.directory = Path(directory).absolute()
        self.report: Callable[[str, str], None] = complain
        self.rejected: list[Rejected] = []
        """Damaged checkpoints that were found, newer than the one in use."""
        self._kept = partial(kept, keep=keep, period=period, every=every)
        self._tolerate = tolerate
        self._latest = self._open()
        self._writer = Writer()
        self._pool = ThreadPoolExecutor(1, "saver")
        self._saving: tuple[int, Future] | None = None
        self._failed, self._lost = 0, ""
        self._remedy = f"make room in {self.directory} and start the training again"

    def latest(self) -> int | None:
        """Step of the newest checkpoint that is whole, None if there is none; waits for one that is being written."""
        self._settle()
        return self._latest

    def save(self, step: int, state: TrainState, meta: dict[str, Any]) -> None:
        """Start saving ``state`` as step ``step``; the state may be donated as soon as this returns.

        A checkpoint of the same step is replaced when the new one is whole (that of a training which was stopped just
        before its last rites). Raises SaveFailed where the saves before failed more often than is tolerated.
        """
        self._settle()
        if self._failed and leader():
            clear(self.directory)
        items = state.items()
        ema = items.pop("ema")
        parts = Parts(train=ocp.args.StandardSave(items), ema=ocp.args.StandardSave(ema), meta=ocp.args.JsonSave(meta))
        try:
            self._writer.start(self.directory / str(step), parts)
        except OSError as error:
            failed: Future = Future()
            failed.set_exception(error)
            self._saving = step, failed
        else:
            self._saving = step, self._pool.submit(self._complete)

    def restore(self, abstract: TrainState) -> TrainState:
        """The newest state, placed by the shardings of ``abstract`` (ShapeDtypeStructs), whatever mesh it came from."""
        return _read_state(self.directory / str(self.latest()), abstract)

    def meta(self) -> dict[str, Any]:
        """Metadata of the newest checkpoint."""
        return _read_meta(self.directory / str(self.latest()))

    def wait(self) -> None:
        """Return when nothing is being written any more; raises as ``save`` does."""
        self._settle()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, ended_by: BaseException | None, *_: object) -> None:
        if ended_by is None:
            return self.close()
        announce(ended_by)
        try:
            self._close(alone=True)  # the other processes may be elsewhere
        except SaveFailed as error:
            if not isinstance(ended_by, SaveFailed):
                complain(SAVES_FAILED, str(error))  # what ended the training is raised

    def close(self) -> None:
        """Raises SaveFailed where the last state that was to be saved is not on disk."""
        self._close()

    def _close(self, alone: bool = False) -> None:
        try:
            self._settle(alone)
        finally:
            self._pool.shutdown()
            self._writer.close()
        if self._failed:
            raise SaveFailed(f"{self._lost}. The last state is lost: {self._remedy}")

    def _open(self) -> int | None:
        """Clean up after a killed process, verify, set aside what is damaged; returns the step to go on from."""
        if leader():
            self.directory.mkdir(parents=True, exist_ok=True)
            check_renames(self.directory)
            clear(self.directory)
        return self.whole()

    def whole(self, among: Sequence[int] | None = None) -> int | None:
        """The first of the steps ``among`` (default: all, the newest first) that is whole, None where there is none.

        The damaged ones before it are set aside. All processes call it; the first one reads. Raises as ``newest``.
        """
        step = None
        if leader():
            step, rejected = newest(self.directory, among=among)
            for one in rejected:
                self.rejected.append(set_aside(one))
                self.report(REJECTED, f"{self.rejected[-1]}. It is now in {self.rejected[-1].path}")
            if rejected:
                self.report(REJECTED, f"Going on from step {step}")
        if jax.process_count() > 1:
            said = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if step is None else step)))
            step = None if said < 0 else said
        return step

    def _complete(self) -> None:
        """In the background: wait for the commit, then let go of what is no longer kept."""
        self._writer.finish()
        if leader():
            there = steps(self.directory)
            for step in set(there) - set(self._kept(there)):
                try:
                    discard(self.directory / str(step))
                except OSError as error:
                    complain(SAVES_FAILED, f"the checkpoint of step {step} could not be removed: {error}")

    def _settle(self, alone: bool = False) -> None:
        """Wait for a save that is under way and take note of how it went, here and, unless ``alone``, anywhere."""
        if self._saving is None:
            return
        (step, saving), self._saving = self._saving, None
        error = saving.exception()
        failed = error is not None
        if not (failed if alone else _anywhere(failed)):
            self._latest, self._failed = step, 0
            return
        self._failed += 1
        self._writer.close()
        if leader():
            clear(self.directory)
        self._writer = Writer()
        why = "another process could not write its part" if error is None else reason(error)
        whole = "there is no checkpoint yet" if self._latest is None else f"step {self._latest} is whole"
        self._lost = f"step {step} could not be saved ({why}); {whole}"
        if self._failed > self._tolerate:
            raise SaveFailed(f"{self._lost}. {self._failed} saves in a row failed: {self._remedy}") from error
        self.report(SAVES_FAILED, f"{self._lost}. Failed saves in a row: {self._failed}, tolerated: {self._tolerate}")


def complain(counter: str, text: str) -> None:
    """What is wrong, on stderr."""
    say(text)


def steps_saved(stage_dir: str | Path) -> list[int]:
    """Steps of the committed checkpoints of ``RUN/<stage>``, ascending; [] where there is none."""
    return steps(Path(stage_dir).absolute() / "checkpoints")


def load_params(stage_dir: str | Path, step: int | None = None) -> tuple[Params, int]:
    """The averaged parameters of ``RUN/<stage>`` as numpy arrays, and their step.

    Unless a step is given it is the newest whose parameters and metadata are as they were written; newer ones are named
    on stderr. Reads nothing else of the checkpoint, so it needs the memory of the parameters alone, on any number of
    devices. Raises FileNotFoundError where there is no such checkpoint and DamagedCheckpoint where none is whole.
    """
    path = _find(stage_dir, step, ("ema", "meta"))
    item = epath.Path(path / "ema")
    reader = ocp.PyTreeCheckpointHandler()
    numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(item).tree)
    return reader.restore(item, args=ocp.args.PyTreeRestore(restore_args=numpy)), int(path.name)


def load_state(stage_dir: str | Path, abstract: TrainState, step: int) -> TrainState:
    """The whole state of ``RUN/<stage>`` at ``step``, placed by the shardings of ``abstract``.

    Writes nothing, so it may look at a run that is being trained. Raises FileNotFoundError where there is none and
    DamagedCheckpoint where it is not what was written.
    """
    return _read_state(_find(stage_dir, step, ("train", "ema")), abstract)


def load_meta(stage_dir: str | Path, step: int | None = None) -> dict[str, Any]:
    """What ``Saver.save`` was given as ``meta``, of the step that ``load_params`` gives unless one is named."""
    return _read_meta(_find(stage_dir, step, ("ema", "meta") if step is None else ("meta",)))


def _read_state(path: Path, abstract: TrainState) -> TrainState:
    items = abstract.items()
    ema = items.pop("ema")
    read = lambda item, target: ocp.StandardCheckpointHandler().restore(
        epath.Path(path / item), args=ocp.args.StandardRestore(target)
    )
    return TrainState(ema=read("ema", ema), **read("train", items))


def _read_meta(path: Path) -> dict[str, Any]:
    return ocp.JsonCheckpointHandler().restore(epath.Path(path / "meta"))


def _find(stage_dir: str | Path, step: int | None, items: Sequence[str]) -> Path:
    """Directory of a step of which ``items`` are as they were written: the newest, or the one that is named."""
    there = steps_saved(stage_dir)
    if not there or (step is not None and step not in there):
        have = f"it has steps {', '.join(map(str, there))}" if there else "it has none"
        what = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        raise FileNotFoundError(f"{stage_dir} has {what}; {have}. Train the stage first (t2i train CONFIG).")
    directory = Path(stage_dir).absolute() / "checkpoints"
    if step is not None:
        if faults := check(directory / str(step), items):
            raise DamagedCheckpoint(f"{stage_dir}: {Rejected(step, tuple(faults), directory / str(step))}")
        return directory / str(step)
    found, rejected = newest(directory, items)
    for one in rejected:
        complain(REJECTED, f"{stage_dir}: {one}. Step {found} is used; training on saves a newer one")
    return directory / str(found)


def _anywhere(flag: bool) -> bool:
    """Whether it is so in any process."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.int32(flag))))


def versions() -> dict[str, str]:
    """Versions of the packages that decide a training's numbers."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
