"""Ends a process in which no step ends any more: stacks of all threads, then its own exit code.

    with Watchdog(experiment.limits.watchdog_s, run.directory / "stacks-0.txt") as watchdog:
        while ...: step(); watchdog.beat()

The time counts from one beat to the next. A thread of its own watches, so it does not matter what the main thread waits
for: a collective, a disk, a data source. Where even that thread can't run, because C code holds Python's lock, a timer
in C writes the stacks into the file and ends the process with exit code 1, ``seconds`` after the thread last ran.

The thread counts no time in which the whole process was suspended. The timer does: a process that was suspended for
longer than ``seconds`` may be ended by it when it wakes.
"""

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path
from typing import IO

EXIT_HUNG = 79
"""Exit code of a training in which no step ended within ``limits.watchdog_s`` (start it again)."""


class Watchdog:
    """Watches from ``with`` on; ``seconds`` of silence end the process with ``EXIT_HUNG``. 0 never does."""

    def __init__(self, seconds: float, stacks: Path):
        self._seconds, self._path = seconds, stacks
        self._last, self._quiet = "the first step", 0.0
        self._tick = max(min(seconds / 20, 5.0), 0.01)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")
        self._file: IO[str] | None = None

    def beat(self, what: str) -> None:
        """Something ended (``what``, for the report), so the time counts anew."""
        self._last, self._quiet = what, 0.0

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            self._file = self._path.open("a")
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._file:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()
            self._file.close()
            if not self._path.stat().st_size:
                self._path.unlink()

    def _watch(self) -> None:
        while True:
            faulthandler.dump_traceback_later(self._seconds + self._tick, exit=True, file=self._file)
            began = time.monotonic()
            if self._over.wait(self._tick):
                return
            self._quiet += min(time.monotonic() - began, 2 * self._tick)
            if self._quiet >= self._seconds:
                self._bite()

    def _bite(self) -> None:
        text = (
            f"no step ended for {self._quiet:.1f} s (limits.watchdog_s={self._seconds:g}); the last that ended was "
            f"{self._last}. Stacks of all threads of process {os.getpid()}, also in {self._path}:\n"
        )
        for file in (self._file, sys.__stderr__):
            file.write(f"watchdog: {text}")
            file.flush()
            faulthandler.dump_traceback(file=file, all_threads=True)
        os._exit(EXIT_HUNG)
