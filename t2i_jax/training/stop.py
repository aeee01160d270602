"""Ctrl-C, SIGTERM and a terminal that closes end a training between two steps, with everything saved.

    with Stop() as stop:
        while not stop.requested: ...

The first signal asks for the end; a second Ctrl-C interrupts at once, as usual. Of several processes JAX's runtime
listens to SIGTERM and tells the others, so there the other signals become a SIGTERM. Under nohup a closed terminal
means nothing.
"""

import os
import signal
import threading
from types import FrameType

from jax.experimental import multihost_utils

EXIT_STOPPED = 75
"""Exit code of a training that was stopped by a signal after it saved its state (EX_TEMPFAIL: start it again)."""


class Stop:
    """Whether a signal has asked for the end. Does nothing outside the main thread, where Python allows no handlers.

    ``processes``: how many train together.
    """

    def __init__(self, processes: int = 1):
        self._processes = processes
        self.requested: str | None = None
        """Name of the signal that came, None as long as there was none."""
        self._before: dict[int, object] = {}

    def now(self, step: int) -> bool:
        """Whether to end after ``step``. Several processes end after the same one, whichever got the signal."""
        if self._processes > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.requested = "SIGTERM"
        return self.requested is not None

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            mine = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
            if self._processes > 1:
                mine.remove(signal.SIGTERM)
            if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
                mine.remove(signal.SIGHUP)
            self._before = {number: signal.signal(number, self._take) for number in mine}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _take(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])
        if self._processes == 1:
            self.requested = signal.Signals(number).name
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
