"""What a training does about a loss or a gradient that is not finite.

The step itself leaves the state as it was (step.py). The guard counts such steps in a row; after
``limits.nonfinite_row`` of them the training is rolled back:

    guard.see(step, values)                 every step's metrics, in order
    if guard.tripped: state, step, _ = guard.roll_back(saver, program, init_key, state)

The state of the last checkpoint before the row comes back, and its number becomes that of the row's last step. The
number alone decides examples and noise, so the window between checkpoint and failure is never drawn again, and a later
resume needs nothing more than its number. The last checkpoint is the newest one that ``checkpoints.every`` asked for:
one saved because a signal came does not count, so that a run that was stopped rolls back to where an unbroken one does.

``RUN/<stage>/nonfinite.jsonl`` has a line for each skipped step (``step``, ``loss``, ``grad_norm``, ``indices`` of the
batch's examples) and for each roll-back (``step``, ``rolled_back_to``); ``t2i replay`` reads it.
"""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from t2i_jax.training.appender import Appender
from t2i_jax.training.checkpoint import Saver, load_state, steps_saved
from t2i_jax.training.experiment import Experiment
from t2i_jax.training.metrics import keep_until
from t2i_jax.training.program import Program
from t2i_jax.training.state import TrainState

EXIT_DIVERGED = 65
"""Exit code of a training that rolled back in vain (EX_DATAERR: starting it again will not help)."""


class Guard:
    """Counts steps in a row that were skipped, writes them down, and rolls back.

    ``before``: the guard's ``memory`` in the checkpoint that the training continues. ``indices``: step number (from 1)
    -> global indices of its examples; None for a process that writes nothing.
    """

    def __init__(
        self, experiment: Experiment, path: Path, start: int, before: dict[str, Any] | None,
        indices: Callable[[int], np.ndarray] | None,
    ):  # fmt: skip
        self._name, self._limits = experiment.stage.name, experiment.limits
        self._every, self._indices = experiment.checkpoints.every, indices
        self._memory = before or {"row": 0, "finite": 0, "rollbacks": 0}
        self.tripped: int | None = None
        """The last step of a row that is too long, until ``roll_back``."""
        if indices:
            keep_until(path, start)
        self._file = Appender(path if indices else Path(os.devnull))

    @property
    def memory(self) -> dict[str, int]:
        """What a checkpoint keeps, so that all goes on after a resume: bad steps in a row, finite ones since the last
        roll-back, and roll-backs since ``checkpoints.every`` finite steps last lay between two."""
        return dict(self._memory)

    def see(self, step: int, values: dict[str, float]) -> None:
        """Take a step's metrics; ``skipped`` says whether they were finite."""
        if not values["skipped"]:
            self._memory["row"] = 0
            self._memory["finite"] += 1
            if self._memory["finite"] >= self._every:
                self._memory["rollbacks"] = 0
            return
        self._memory["row"] += 1
        if self._indices:
            said = {"step": step, "loss": repr(values["loss"]), "grad_norm": repr(values["grad_norm"])}
            self._write(said | {"indices": self._indices(step).tolist()})
        if self._memory["row"] >= self._limits.nonfinite_row:
            self.tripped = step

    def roll_back(
        self, saver: Saver, program: Program, init_key: jax.Array, state: TrainState
    ) -> tuple[TrainState, int, int]:
        """The last checkpoint's state with the number of the step that tripped, that number, and the checkpoint's.

        ``state`` is freed. A checkpoint that is damaged is set aside, as at a start, and the next one is taken. Raises
        FloatingPointError after ``limits.rollbacks`` of them with next to no finite steps between, and NoneWhole.
        """
        saver.latest()  # waits for a save that is under way
        step, row = self.tripped, self._memory["row"]
        stage_dir = saver.directory.parent
        times = self._memory["rollbacks"]
        if times >= self._limits.rollbacks:
            raise FloatingPointError(
                f"{self._name}: {row} steps in a row to step {step} had a loss or gradient that is not finite, and "
                f"rolling back did not help {times} times. The checkpoints are whole. See a step with `t2i replay`, "
                "lower optimizer.learning_rate, lengthen the warm-up or set optimizer.clip."
            )
        target = saver.whole(ways_back(step - row + 1, steps_saved(stage_dir), self._every)) or 0
        self._memory = {"row": 0, "finite": 0, "rollbacks": times + 1}
        self.tripped = None
        for leaf in jax.tree.leaves(state):
            leaf.delete()  # two states may not fit
        state = load_state(stage_dir, program.state, target) if target else program.init(init_key)
        self._write({"step": step, "rolled_back_to": target})
        return renumbered(state, step), step, target

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record).encode() + b"\n")

    def __enter__(self) -> "Guard":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def ways_back(first: int, saved: list[int], every: int) -> list[int]:
    """The steps to go back to when the steps from ``first`` on were skipped, the best first; none: the beginning.

    The newest scheduled one before ``first``, else any before it. Where only one inside the row is left, its state is
    that of the step before the row, for skipped steps change nothing.
    """
    return sorted(saved, key=lambda step: (step < first, step < first and step % every == 0, step), reverse=True)


def renumbered(state: TrainState, step: int) -> TrainState:
    """The state with another step number."""
    number = jax.device_put(np.asarray(step, state.step.dtype), state.step.sharding)
    return dataclasses.replace(state, step=number)


def read_rollbacks(path: Path) -> list[tuple[int, int]]:
    """(step, step of the checkpoint that came back) of each roll-back in a ``nonfinite.jsonl``."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(line["step"], line["rolled_back_to"]) for line in lines if "rolled_back_to" in line]
