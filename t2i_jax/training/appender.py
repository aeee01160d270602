"""A file of records that outlives a full disk: what finds no room waits, and is written whole when there is some."""

import os
from pathlib import Path


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
