"""The punisher: kills a training with SIGKILL again and again, at random moments and in every phase of a save."""

import os
import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.faults.driver import Life
from tests.faults.inject import PHASES
from tests.faults.nursery import Nursery, digest, saved


@dataclass(frozen=True)
class Punished:
    """What happened."""

    kills: Counter
    """Kind of kill -> how many."""
    digests: list[str]
    """Of the final state of each training that was finished."""
    seconds: float


def punish(nursery: Nursery, folder: Path, base: Path, kills: int, seed: int, steps: int = 24) -> Punished:
    """Train run after run until ``kills`` processes were killed and the last run is finished.

    Half of the kills strike from outside after a random part of a life's usual time (imports are over by then, so it is
    start, restore, steps and saves), half in a phase of a save, each phase in turn. ``base`` has the tokenizer.
    """
    rng, done, digests, began = random.Random(seed), Counter(), [], time.monotonic()
    usual, phases = 4.0, 0
    while True:
        root = folder / f"run{len(digests)}"
        root.mkdir()
        shutil.copy(base / "tokenizer.model", root)
        while True:
            life = Life(str(root), str(folder / "log"), steps=steps, faults=((0, 1, "slow"),))
            if sum(done.values()) >= kills:
                assert nursery.run(life) == 0, (folder / "log").read_text()[-3000:]
                break
            kind = rng.choice(("random moment", "phase"))
            start = time.monotonic()
            if kind == "phase":
                kind = PHASES[phases % len(PHASES)]
                phases += 1
                step = max(saved(root), default=0) + 1
                code = nursery.run(Life(str(root), str(folder / "log"), steps=steps, faults=((0, step, kind),)))
            else:
                pid = nursery.start(life)
                time.sleep(rng.uniform(0, usual))
                os.kill(pid, signal.SIGKILL)
                code = nursery.wait(pid, 60)
            if code == 0:
                usual = time.monotonic() - start
                break
            assert code == -signal.SIGKILL, (kind, code, (folder / "log").read_text()[-3000:])
            done[kind] += 1
        digests.append(digest(root))
        if sum(done.values()) >= kills:
            return Punished(done, digests, time.monotonic() - began)
        shutil.rmtree(root)
