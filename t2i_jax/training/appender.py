"""Writing on a disk that may be full: records wait and are written whole when there is room, messages are lost."""

import contextlib
import os
import sys
from pathlib import Path


def say(text: str) -> None:
    """A line on stderr, which may be a file on a full disk: then the line is lost, and nothing else is."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class Appender:
    """Appends to ``path``. A record that can't be written is kept, in order, and tried again with the next one."""

    def __init__(self, path: Path):
        self._file = path.open("ab", buffering=0)
        self._waiting: list[bytes] = []

    def write(self, record: bytes) -> OSError | None:
        """Append one record; returns why it has to wait, None if it is written."""
        self._waiting.append(record)
        while self._waiting:
            before = self._file.seek(0, os.SEEK_END)
            rest = self._waiting[0]
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError as error:
                self._file.truncate(before)  # half a record would spoil the next one
                return error
            self._waiting.pop(0)
        return None

    def close(self) -> None:
        self._file.close()
