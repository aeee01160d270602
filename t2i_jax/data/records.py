"""Random access to serialised records over many ArrayRecord files, as one long list.

Files are opened when first read. Grouped files (several records compressed together) are read as well as ungrouped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Piece:
    """``take`` records of a file, after its first ``skip``."""

    path: str
    skip: int
    take: int


class Records:
    """The records of ``pieces``, one piece after the other. Safe to read from several threads."""

    def __init__(self, pieces: Sequence[Piece]):
        self._pieces = [piece for piece in pieces if piece.take]
        self._ends = np.cumsum([piece.take for piece in self._pieces], dtype=np.int64)
        self._readers: dict[int, object] = {}

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._pieces else 0

    def read(self, indices: Sequence[int]) -> list[bytes]:
        """The records at ``indices`` (0 ... len - 1, repetitions allowed), in that order.

        Raises ValueError, naming the file, where one is damaged.
        """
        index = np.asarray(indices, np.int64)
        files = np.searchsorted(self._ends, index, side="right")
        out: list[bytes] = [b""] * len(index)
        for number in np.unique(files).tolist():
            piece, where = self._pieces[number], np.flatnonzero(files == number)
            local = index[where] - (self._ends[number] - piece.take) + piece.skip
            try:
                found = self._reader(number).read(local.tolist())
            except (RuntimeError, ValueError, IndexError) as error:
                raise ValueError(f"damaged records in {piece.path}: {error}") from error
            for place, record in zip(where, found):
                out[place] = record
        return out

    def _reader(self, number: int):
        if number not in self._readers:
            from array_record.python import array_record_module

            self._readers[number] = array_record_module.ArrayRecordReader(self._pieces[number].path)
        return self._readers[number]
