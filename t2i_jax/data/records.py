"""Random access to serialised records over many ArrayRecord files, as one long list.

Files are opened when first read. Grouped files (several records compressed together) are read as well as ungrouped.
ArrayRecord keeps a checksum of every chunk: a flipped bit costs the records of one chunk, which are told as damaged.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_FAULTS = (RuntimeError, ValueError, IndexError)


@dataclass(frozen=True)
class Piece:
    """``take`` records of a file, after its first ``skip``."""

    path: str
    skip: int
    take: int


@dataclass(frozen=True)
class Damaged:
    """Stands for a record that can't be read; says where and why."""

    detail: str


class Records:
    """The records of ``pieces``, one piece after the other. Safe to read from several threads."""

    def __init__(self, pieces: Sequence[Piece]):
        self._pieces = [piece for piece in pieces if piece.take]
        self._ends = np.cumsum([piece.take for piece in self._pieces], dtype=np.int64)
        self._readers: dict[int, object] = {}

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._pieces else 0

    def read(self, indices: Sequence[int]) -> list[bytes | Damaged]:
        """The records at ``indices`` (0 ... len - 1, repetitions allowed), in that order.

        Raises FileNotFoundError where a file is gone.
        """
        index = np.asarray(indices, np.int64)
        files = np.searchsorted(self._ends, index, side="right")
        out: list[bytes | Damaged] = [b""] * len(index)
        for number in np.unique(files).tolist():
            piece, where = self._pieces[number], np.flatnonzero(files == number)
            local = index[where] - (self._ends[number] - piece.take) + piece.skip
            reader = self._reader(number)
            for place, one, record in zip(where, local.tolist(), _runs(reader, piece.path, local)):
                # a file cut at a multiple of 64 KiB opens, and gives empty records
                out[place] = record or Damaged(f"record {one} of {piece.path} is empty")
        return out

    def _reader(self, number: int):
        if number not in self._readers:
            from array_record.python import array_record_module

            path = self._pieces[number].path
            if not os.path.isfile(path):  # the reader would call each of its records damaged
                raise FileNotFoundError(f"the data set lacks its file {path}: copy it again, or build it anew")
            self._readers[number] = array_record_module.ArrayRecordReader(path)
        return self._readers[number]


def _runs(reader, path: str, local: np.ndarray) -> Iterator[bytes | Damaged]:
    """The records at ``local``, one call for each row of neighbours: for scattered ones, which share no block, the
    reader takes twice as long together as one after the other."""
    for run in np.split(local, np.flatnonzero(np.diff(local) != 1) + 1):
        try:
            yield from reader.read(run.tolist())
        except _FAULTS:  # one of them, which fails all
            yield from (_alone(reader, path, one) for one in run.tolist())


def _alone(reader, path: str, index: int) -> bytes | Damaged:
    try:
        return reader.read([index])[0]
    except _FAULTS as error:
        return Damaged(f"record {index} of {path}: {error}")
