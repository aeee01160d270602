"""What a training says: JSON lines, TensorBoard, Weights & Biases if asked, and a line on the terminal.

``metrics.jsonl`` has one object a line: ``step``, ``loss``, ``lr``, ``grad_norm``, the stage's own scalars (each the
mean since the last line over the steps that were finite), ``skipped`` and ``rollbacks`` (how many steps were not, and
how often the training was rolled back, since the last line), ``examples_per_second``, ``tflops`` (reached, all
devices), ``peak_share`` (of what the devices could do), ``seconds`` (of training, all runs together), ``goodput`` and
``time_<part>`` (see goodput.py). When a training continues from a checkpoint, later lines of the run that was cut off
are removed. What went wrong is counted by name (``saves_failed``, ``checkpoints_rejected``) in every later line of the
same process.
"""

import contextlib
import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from t2i_jax.training.appender import Appender, say
from t2i_jax.training.goodput import Goodput
from t2i_jax.training.run import write_whole
from t2i_jax.training.tensorboard import Events


class Reporter:
    """Writes one run's metrics, a line every ``every`` steps and at the last.

    ``examples`` and ``flops`` are those of one step, ``peak`` FLOP/s of all devices. ``seen`` gets every step's metrics
    as they are read, in order. One that does not write still reads them: of several processes one reports.
    """

    def __init__(
        self, name: str, path: Path, start: int, steps: int, every: int, *, examples: int, flops: int,
        peak: float | None, tensorboard: Path | None = None, wandb: str | None = None, writes: bool = True,
        goodput: Goodput | None = None, seen: Callable[[int, dict[str, float]], None] = lambda step, values: None,
    ):  # fmt: skip
        self.name, self.steps, self.every = name, steps, every
        self.examples, self.flops, self.peak = examples, flops, peak
        self._writes, self._goodput, self._seen = writes, goodput, seen
        self._seconds = keep_until(path, start) if writes else 0.0
        self._file = Appender(path if writes else Path(os.devnull))
        self._writers = [_tensorboard(tensorboard, start)] if tensorboard and writes else []
        self._writers += [_wandb(name, wandb)] if wandb and writes else []
        self._line = Line(name, start, steps)
        self._sums: dict[str, float] = {}
        self._count, self._skipped, self._rollbacks, self._pending = 0, 0.0, 0.0, None
        self._incidents: dict[str, int] = {}
        self._clock = time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside (a sample sheet) does not count as training time."""
        began = time.perf_counter()
        yield
        self._clock += time.perf_counter() - began

    def add(self, step: int, metrics: dict[str, Any]) -> None:
        """Take the metrics of a step that was just dispatched; they are read when the next one's come.

        So the host waits for step N - 1 while the devices do step N.
        """
        self.settle()
        self._pending = step, metrics

    def settle(self) -> None:
        """Wait for the last step added and read its metrics; writes a line where one is due."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._count += 1
        if values.get("skipped"):
            self._skipped += 1
            if self._writes:
                self.say(f"step {step} skipped: loss {values['loss']}, gradient norm {values.get('grad_norm')}")
        else:
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
        self._seen(step, values)
        if step % self.every == 0 or step == self.steps:
            self._report(step)

    def rolled_back(self, step: int) -> None:
        """The training goes on from ``step`` with an older state: what was added and not read counts no more."""
        self._pending = None
        self._rollbacks += 1
        if step == self.steps:
            self._report(step)

    def _report(self, step: int) -> None:
        """Write the means since the last report as the line of ``step``."""
        now = time.perf_counter()
        elapsed, self._clock = now - self._clock, now
        self._seconds += elapsed
        values = {name: total / max(self._count - self._skipped, 1) for name, total in self._sums.items()}
        values |= {"skipped": self._skipped, "rollbacks": self._rollbacks}
        pace = self._count / max(elapsed, 1e-9)
        values["examples_per_second"] = pace * self.examples
        values["tflops"] = pace * self.flops / 1e12
        if self.peak:
            values["peak_share"] = pace * self.flops / self.peak
        values["seconds"] = self._seconds
        values |= self._incidents
        if self._goodput:
            values["goodput"] = self._goodput.share()
            values |= {f"time_{name}": value for name, value in self._goodput.seconds().items()}
        if error := self._file.write(json.dumps({"step": step} | values).encode() + b"\n"):
            self.incident("lines_delayed", f"the metrics of step {step} wait to be written: {error}")
        for write, _ in self._writers:
            write(step, values)
        if self._writes:
            self._line.update(step, values)
        self._sums, self._count, self._skipped, self._rollbacks = {}, 0, 0.0, 0.0

    def say(self, text: str) -> None:
        """One line to the user, beside the progress line."""
        self._line.say(f"{self.name}: {text}")

    def incident(self, name: str, text: str) -> None:
        """Something that went wrong without ending the training: said, and counted under ``name`` in the metrics."""
        self.count(name)
        if self._writes:
            self.say(text)

    def count(self, name: str, times: int = 1) -> None:
        """Add to a count that every later line of the metrics shows; nothing is shown that never happened."""
        if times:
            self._incidents[name] = self._incidents.get(name, 0) + times

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._line.close()
        self._file.close()
        for _, close in self._writers:
            close()


class Line:
    """Progress on a terminal as one live line, elsewhere as a plain line a report."""

    def __init__(self, name: str, start: int, steps: int):
        self.name, self.start, self.steps = name, start, steps
        self._began = time.perf_counter()
        console = Console(stderr=True, soft_wrap=True)
        self._console, self._progress = console, None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(24), TaskProgressColumn())
            text = TextColumn("{task.completed}/{task.total} {task.fields[text]}")
            self._progress = Progress(*columns, text, TimeRemainingColumn(), console=console)
            self._task = self._progress.add_task(name, total=steps, completed=start, text="")
            self._progress.start()

    def update(self, step: int, values: dict[str, float]) -> None:
        text = f"loss {values.get('loss', float('nan')):.4f}  {values['examples_per_second']:.0f} examples/s"
        if "peak_share" in values:
            text += f"  {values['peak_share']:.0%} of peak"
        if self._progress:
            self._progress.update(self._task, completed=step, text=text)
            return
        left = (time.perf_counter() - self._began) / max(step - self.start, 1) * (self.steps - step)
        details = f"lr {values.get('lr', 0.0):.2e}  grad {values.get('grad_norm', 0.0):.3f}"
        say(f"{self.name}  {step}/{self.steps}  {text}  {details}  {_clock(left)} left")

    def say(self, text: str) -> None:
        if self._progress:
            with contextlib.suppress(OSError):  # the terminal is closed
                self._progress.console.print(text, highlight=False, markup=False)
        else:
            say(text)

    def close(self) -> None:
        if self._progress:
            with contextlib.suppress(OSError):
                self._progress.stop()


def keep_until(path: Path, step: int) -> float:
    """Cut lines after ``step`` and any half-written one; returns the seconds trained until then."""
    if not path.exists():
        return 0.0
    kept, seconds = [], 0.0
    text = path.read_text(errors="replace")
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # half a line: the process was killed while it wrote
        if record.get("step", 0) <= step:
            kept.append(line)
            seconds = record.get("seconds", seconds)
    left = "".join(line + "\n" for line in kept)
    if left != text:
        write_whole(path, left)
    return seconds


def _tensorboard(directory: Path, start: int) -> tuple:
    events = Events(directory, start)
    return events.write, events.close


def check_wandb(project: str | None) -> None:
    """Raise ValueError where Weights & Biases is to be told and its package is missing."""
    if project and importlib.util.find_spec("wandb") is None:
        raise ValueError(
            f"reports.wandb is {project!r} and the package wandb is not installed: pip install wandb, or leave the "
            "field unset"
        )


def _wandb(name: str, project: str) -> tuple:
    import wandb

    run = wandb.init(project=project, name=name, resume="allow")
    return lambda step, values: run.log(values, step=step), run.finish


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
