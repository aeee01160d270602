"""Ctrl-C and SIGTERM end a training between two steps, with everything saved.

    with Stop() as stop:
        while not stop.requested: ...

The first signal asks for the end; a second Ctrl-C interrupts at once, as usual.
"""

import signal
import threading
from types import FrameType

EXIT_STOPPED = 75
"""Exit code of a training that was stopped by a signal after it saved its state (EX_TEMPFAIL: start it again)."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether a signal has asked for the end. Does nothing outside the main thread, where Python allows no handlers."""

    def __init__(self):
        self.requested: str | None = None
        """Name of the signal that came, None as long as there was none."""
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._take) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.requested = signal.Signals(number).name
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
