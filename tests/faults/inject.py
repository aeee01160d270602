"""One injector: ``fail_at(process, step, kind)`` makes a real training process fail in a real way.

The product has no hook for it: what the training loop calls is wrapped from outside, in a process that is about to call
``train`` (see driver.py). Nothing is imitated: a kill is SIGKILL to oneself, a full disk is the kernel's refusal to
write, a NaN is in the loss and the gradient that the compiled step computes.

    raise      an exception in the loop after the step      kill, stop, term   the signal, after the step
    nan        loss and gradient are NaN in the step        hang       the data source never gives the step's batch
    slow       every batch from the step on takes 50 ms     locked     C code holds Python's lock for ever
    nospace    every write after the step is refused        corrupt    a byte of the newest checkpoint flips, then kill
    unsealed   every write is refused once the first save at or after the step is to get its manifest
    PHASE      killed in that phase of the first save at or after the step that has it; see PHASES
"""

import ctypes
import dataclasses
import os
import resource
import shutil
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp

SLOW = 0.05
PHASES = ("before write", "during write", "before commit", "after commit", "before expiry", "after expiry", "sweep")
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}
KINDS = ("raise", *SIGNALS, "nan", "hang", "slow", "locked", "nospace", "corrupt", "unsealed", *PHASES)


@dataclass(frozen=True)
class Fault:
    """``kind`` strikes ``process`` at ``step`` (from 1)."""

    process: int
    step: int
    kind: str


def fail_at(process: int, step: int, kind: str) -> Fault:
    """A fault for ``install``. Raises ValueError for a kind that there is not."""
    if kind not in KINDS:
        raise ValueError(f"no fault {kind!r}; there are {', '.join(KINDS)}")
    return Fault(process, step, kind)


def install(faults: list[Fault], process: int) -> None:
    """Make the next ``train`` of this process fail so; NaNs strike every process, for they compute one loss."""
    mine = [fault for fault in faults if fault.process == process]
    _after_steps([fault for fault in mine if fault.kind in ("raise", *SIGNALS, "locked", "nospace", "corrupt")])
    _in_data([fault for fault in mine if fault.kind in ("hang", "slow")])
    _in_loss([fault.step for fault in faults if fault.kind == "nan"])
    for fault in mine:
        if fault.kind in PHASES:
            _in_save(fault.kind, fault.step)
        if fault.kind == "unsealed":
            _in_manifest(fault.step)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def _after_steps(faults: list[Fault]) -> None:
    from t2i_jax.training import loop

    class Reporter(loop.Reporter):
        def __init__(self, name, path, *args, **options):
            super().__init__(name, path, *args, **options)
            self.checkpoints = Path(path).parent / "checkpoints"

        def add(self, step, metrics):
            super().add(step, metrics)
            for fault in faults:
                if fault.step == step:
                    _strike(fault, self.checkpoints)

    loop.Reporter = Reporter


def _strike(fault: Fault, checkpoints: Path) -> None:
    if fault.kind == "raise":
        raise RuntimeError(f"injected after step {fault.step}")
    if fault.kind in SIGNALS:
        os.kill(os.getpid(), SIGNALS[fault.kind])
    elif fault.kind == "locked":
        ctypes.PyDLL(None).sleep(3600)
    elif fault.kind == "nospace":
        refuse_writes()
    elif fault.kind == "corrupt":
        flip_a_byte(checkpoints)
        die()


def refuse_writes() -> None:
    """The kernel lets this process write to no file any more."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))  # Python ignores the signal that comes along


def flip_a_byte(checkpoints: Path) -> Path:
    """Flips one byte in the middle of the largest file of the newest checkpoint; returns the file."""
    newest = max((entry for entry in checkpoints.iterdir() if entry.name.isdigit()), key=lambda entry: int(entry.name))
    path = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def _in_data(faults: list[Fault]) -> None:
    from t2i_jax.training.inputs import Inputs

    plain = Inputs.batches

    def batches(self, start):
        for number, batch in enumerate(plain(self, start), start + 1):
            for fault in faults:
                if fault.kind == "hang" and number == fault.step:
                    threading.Event().wait()
                if fault.kind == "slow" and number >= fault.step:
                    time.sleep(SLOW)
            yield batch

    Inputs.batches = batches


def _in_loss(steps: list[int]) -> None:
    if not steps:
        return
    from t2i_jax.training import program

    plain = program.make_step

    def make_step(stage, *args, **options):
        class Poisoned(type(stage)):
            name = stage.name

            def loss(self, params, frozen, rng, batch):
                value, metrics = super().loss(params, frozen, rng, batch)
                return value * batch["poison"].mean(), metrics  # times 1 changes no bit

        fields = {field.name: getattr(stage, field.name) for field in dataclasses.fields(stage)}
        step = plain(Poisoned(**fields), *args, **options)

        def poisoned(state, frozen, key, batch):
            bad = jnp.isin(state.step + 1, jnp.array(steps))
            rows = len(batch["index"])
            return step(state, frozen, key, batch | {"poison": jnp.full(rows, jnp.where(bad, jnp.nan, 1.0))})

        return poisoned

    program.make_step = make_step


def _in_save(phase: str, step: int) -> None:
    """Wraps what a save does to its directory, whoever does it, from the first save at or after ``step`` on."""
    from t2i_jax.training import loop

    armed = threading.Event()
    save, rename, replace, rmtree = loop.Saver.save, os.rename, os.replace, shutil.rmtree

    def saving(self, number, *args, **options):
        if number >= step:
            self.latest()  # the save before is over, as it is when this one begins
            armed.set()
            if phase == "before write":
                die()
            if phase == "during write":
                threading.Thread(target=_watch, args=(self.directory,), daemon=True).start()
        return save(self, number, *args, **options)

    def moving(move):
        def moved(source, target, **options):
            what = "expiry" if _is_step(source) else "commit" if _is_step(target) else ""
            if armed.is_set() and phase == f"before {what}":
                die()
            move(source, target, **options)
            if armed.is_set() and phase == f"after {what}":
                die()

        return moved

    def removing(path, *args, **options):
        if armed.is_set() and phase == "sweep" and "checkpoints" in Path(path).parts:
            files = sorted(p for p in Path(path).rglob("*") if p.is_file())
            for file in files[: len(files) // 2]:
                file.unlink()
            die()
        return rmtree(path, *args, **options)

    loop.Saver.save, shutil.rmtree = saving, removing
    os.rename, os.replace = moving(rename), moving(replace)


def _in_manifest(step: int) -> None:
    from t2i_jax.training import commit

    plain = commit.write_manifest

    def write(directory, number):
        if number >= step:
            refuse_writes()
        plain(directory, number)

    commit.write_manifest = write


def _is_step(path) -> bool:
    """Whether it is the directory of a committed step."""
    path = Path(path)
    return path.parent.name == "checkpoints" and path.name.isdigit()


def _watch(directory: Path) -> None:
    """Kills once the directory of an unfinished save holds a file."""
    while not any(p.is_file() for tmp in directory.glob("*tmp*") for p in _inside(tmp)):
        time.sleep(0.0005)
    die()


def _inside(folder: Path) -> list[Path]:
    """Everything in a folder that others write and rename meanwhile."""
    return [Path(where) / name for where, _, names in os.walk(folder) for name in names]
