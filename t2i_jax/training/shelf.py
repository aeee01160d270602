"""The steps in a directory of checkpoints: which there are, which can be trusted, which may go.

    steps(directory)                      # [100, 200, 300]: all that were committed
    step, rejected = newest(directory)    # (200, [Rejected(300, ...)]): the newest whose every byte is as written
    kept(steps, keep=3, every=1000)       # {step: why it stays}
"""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from t2i_jax.training.manifest import check

REJECTED = "rejected"
"""Folder beside the steps for damaged ones; nothing reads or empties it."""


class DamagedCheckpoint(ValueError):
    """A checkpoint that was asked for is not what was written; the message names its files."""


class NoneWhole(DamagedCheckpoint):
    """There are checkpoints, and not one is what was written."""


@dataclass(frozen=True)
class Rejected:
    """A committed step that is not used."""

    step: int
    faults: tuple[str, ...]
    """What is wrong, file by file."""
    path: Path
    """Where it is now."""

    def __str__(self) -> str:
        more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
        return f"the checkpoint of step {self.step} is damaged: {self.faults[0]}{more}"


def steps(directory: Path) -> list[int]:
    """Steps that were committed in ``directory``, ascending; [] where there is none."""
    if not directory.is_dir():
        return []
    return sorted(int(entry.name) for entry in directory.iterdir() if entry.name.isdigit() and entry.is_dir())


def newest(
    directory: Path, items: Sequence[str] | None = None, among: Sequence[int] | None = None
) -> tuple[int | None, list[Rejected]]:
    """The newest step of which ``items`` (all unless given) are as they were written, and the newer ones that are not.

    ``among``: the steps in question, the one that is best first, in place of all. (None, []) where there is none.
    Raises NoneWhole where there are some and none can be trusted, and what ``check`` raises; nothing is moved.
    """
    rejected: list[Rejected] = []
    for step in reversed(steps(directory)) if among is None else among:
        path = directory / str(step)
        faults = check(path, items)
        if not faults:
            return step, rejected
        rejected.append(Rejected(step, tuple(faults), path))
    if rejected:
        raise NoneWhole(
            f"{directory} has checkpoints, and none is whole: {'; '.join(map(str, rejected))}. Nothing was moved or "
            "removed. Put the files that are named back from a copy, or move the directory away and the stage begins "
            "anew. docs/reliability.md says what to do about a step that lacks nothing but its manifest"
        )
    return None, []


def set_aside(one: Rejected) -> Rejected:
    """Move a damaged step where it isn't taken for one, so that its step can be saved anew; says where it is now."""
    shelf = one.path.parent / REJECTED
    shelf.mkdir(exist_ok=True)
    to = shelf / str(one.step)
    if to.exists():
        to = shelf / f"{one.step}-{time.time_ns()}"
    os.rename(one.path, to)
    return Rejected(one.step, one.faults, to)


def kept(steps: Iterable[int], keep: int, period: int = 0, every: int = 0) -> dict[int, str]:
    """The steps that stay, each with the reason: the ``keep`` newest, the newest of every ``period`` steps, and the two
    newest (of ``keep`` 1: the newest) that were due, as multiples of ``every``, whatever was saved because of a signal.

    A period ends with a multiple of ``period``: of 100, 200, ..., 2500 with 1000 these are 1000, 2000 and, for now,
    2500. 0 keeps none but the newest. A roll-back goes to the newest step that was due before a row of bad ones, into
    which the last one may have fallen: hence two.
    """
    ordered = sorted(steps)
    why = {step: f"among the {keep} newest" for step in ordered[-keep:]}
    due = [step for step in ordered if every and step % every == 0]
    for step in due[-min(keep, 2) :]:
        why.setdefault(step, "where a roll-back leads")
    ends = {-(-step // period) * period: step for step in ordered} if period else {}  # the newest of each comes last
    for end, step in ends.items():
        why.setdefault(step, f"the newest of steps {end - period + 1} to {end}")
    return dict(sorted(why.items()))
