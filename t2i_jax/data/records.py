"""Random access to serialised records over many ArrayRecord files, as one long list.

Files are opened when first read. Grouped files (several records compressed together) are read as well as ungrouped.
ArrayRecord keeps a checksum of every chunk: a flipped bit costs the records of one chunk, which are told as damaged.
"""

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

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
        self._ends = [*accumulate(piece.take for piece in self._pieces)]
        self._readers: dict[int, object] = {}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, indices: Sequence[int]) -> list[bytes | Damaged]:
        """The records at ``indices`` (0 ... len - 1, repetitions allowed), in that order.

        Raises FileNotFoundError where a file is gone.
        """
        out: list[bytes | Damaged] = []
        for number, local in self._runs(indices):
            out += self._run(number, local)
        return out

    def _runs(self, indices: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """The indices cut into rows of neighbours in a file, each with the file's number, counted from its beginning.

        One call reads such a row; for scattered records, which share no block, the reader takes twice as long together
        as one after the other. Plain Python: for the few records of a call NumPy takes longer.
        """
        number, run = -1, []
        for index in map(int, indices):
            of = bisect_right(self._ends, index)
            local = index - self._ends[of] + self._pieces[of].take + self._pieces[of].skip
            if run and (of != number or local != run[-1] + 1):
                yield number, run
                run = []
            number = of
            run.append(local)
        if run:
            yield number, run

    def _run(self, number: int, local: list[int]) -> list[bytes | Damaged]:
        reader, path = self._readers.get(number) or self._open(number), self._pieces[number].path
        try:
            found = reader.read(local)
        except _FAULTS:  # one of them, which fails all
            found = [_alone(reader, path, one) for one in local]
        if all(found):
            return found
        # a file cut at a multiple of 64 KiB opens, and gives empty records
        return [record or Damaged(f"record {one} of {path} is empty") for one, record in zip(local, found)]

    def _open(self, number: int):
        from array_record.python import array_record_module

        path = self._pieces[number].path
        if not os.path.isfile(path):  # the reader would call each of its records damaged
            raise FileNotFoundError(f"the data set lacks its file {path}: copy it again, or build it anew")
        return self._readers.setdefault(number, array_record_module.ArrayRecordReader(path))


class Picked(Records):
    """Some records of another row of them: the ``rows``, in that order."""

    def __init__(self, source: Records, rows: Sequence[int]):
        self._source, self._rows = source, [*map(int, rows)]

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: Sequence[int]) -> list[bytes | Damaged]:
        return self._source.read([self._rows[index] for index in indices])


def _alone(reader, path: str, index: int) -> bytes | Damaged:
    try:
        return reader.read([index])[0]
    except _FAULTS as error:
        return Damaged(f"record {index} of {path}: {error}")
