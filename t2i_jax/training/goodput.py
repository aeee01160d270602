"""Where a training's wall time goes: the share in steps that count, and what took the rest.

    time = Goodput(run.goodput, start)
    with time.part("data"): batch = next(feed)
    time.step(number, skipped=False)        # the time since the last part belongs to this step
    print(time.line())

Each moment belongs to exactly one part, so the parts sum to the wall time. ``lost`` is what was done twice: steps up to
the one that an earlier, killed process had reached, and the window that a roll-back throws away; ``skipped`` is steps
that were not finite. The account is kept in ``RUN/<stage>/goodput.json``, once a second, and a training that continues
goes on with it. Time in which no process ran is in none of it.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from t2i_jax.training.appender import say
from t2i_jax.training.run import write_whole

PARTS = ("step", "setup", "compile", "data", "save", "restore", "preview", "skipped", "lost")
"""``setup``: everything before the first step that is no other part: reading data, computing the features' cache."""
_EVERY = 1.0


class Goodput:
    """The account of one training. ``writes``: whether this process keeps the file."""

    def __init__(self, path: Path, writes: bool = True):
        self._path, self._writes = path, writes
        self._repeat, self._seconds = _read(path)
        """Steps up to this one were done already."""
        self._reached = 0
        self._part, self._clock = "setup", time.perf_counter()
        self._written = self._clock
        self._open = 0.0
        """Seconds in steps since the last step ended; not in any part yet."""
        self._marks: dict[int, float] = {}
        """Step of a checkpoint -> seconds in steps at that moment."""

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What happens inside belongs to the part ``name``."""
        outer = self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def begin(self) -> None:
        """The first step begins: from here on, what is in no other part is steps."""
        self._switch("step")
        self._marks[0] = self._seconds["step"]

    def step(self, number: int, skipped: bool) -> None:
        """The step ``number`` ended."""
        self._switch(self._part)
        kind = "skipped" if skipped else "lost" if number <= self._repeat else "step"
        self._seconds[kind] += self._open
        self._open = 0.0
        self._reached = max(self._reached, number)
        if self._clock - self._written >= _EVERY:
            self.write()

    def mark(self, number: int) -> None:
        """A checkpoint of step ``number`` is taken."""
        self._marks[number] = self._seconds["step"]

    def roll_back(self, number: int) -> None:
        """The steps since the checkpoint of ``number`` count no more."""
        kept = self._marks.get(number, self._marks[0])
        self._seconds["lost"] += self._seconds["step"] - kept
        self._seconds["step"] = kept

    def seconds(self) -> dict[str, float]:
        """Seconds in each part so far, all processes of this training one after the other."""
        self._switch(self._part)
        return self._seconds | {"step": self._seconds["step"] + self._open}

    def share(self) -> float:
        """Share of the wall time that went into steps that count."""
        parts = self.seconds()
        return parts["step"] / max(sum(parts.values()), 1e-9)

    def line(self) -> str:
        """The account in one line."""
        parts = self.seconds()
        total = max(sum(parts.values()), 1e-9)
        rest = ", ".join(f"{name} {parts[name] / total:.1%}" for name in PARTS[1:] if parts[name] >= 0.0005 * total)
        return f"goodput {parts['step'] / total:.1%} of {total:.1f} s ({rest or 'nothing else'})"

    def write(self) -> None:
        """Put the account on disk; where there is no room, the next one will do."""
        self._written = time.perf_counter()
        if self._writes:
            account = {"reached": max(self._reached, self._repeat), "seconds": self.seconds()}
            with contextlib.suppress(OSError):
                write_whole(self._path, json.dumps(account) + "\n", lasting=False)  # once a second

    def _switch(self, name: str) -> str:
        now = time.perf_counter()
        if self._part == "step":
            self._open += now - self._clock
        else:
            self._seconds[self._part] += now - self._clock
        outer, self._part, self._clock = self._part, name, now
        return outer


def _read(path: Path) -> tuple[int, dict[str, float]]:
    """The step that was reached and the seconds in each part; nothing where no account can be read, which is said."""
    nothing = 0, dict.fromkeys(PARTS, 0.0)
    try:
        before = json.loads(path.read_text())
        return int(before["reached"]), {name: float(before["seconds"].get(name, 0.0)) for name in PARTS}
    except FileNotFoundError:
        return nothing
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        say(f"{path} can't be read ({type(error).__name__}: {error}): the account of goodput begins anew")
        return nothing
