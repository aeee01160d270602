"""Which examples every step visits, over data sets with weights and buckets of shapes: a pure function of the step.

    deal = deal_of(data, dataset)
    shares = Shares(seed, batch, deal)
    epoch, index = shares(step)               # this process's part of the step
    deal.shapes[deal.bucket(step)]            # height and width of all its pictures

Examples lie in cells: those of one data set that go to one bucket. Steps are dealt to buckets in proportion to what
is in them (turns.py), the rows of a bucket's batches to its data sets in proportion to their weights, and each cell is
an endless row of epochs (order.py). So every example of a cell comes once before any of it comes again, on any number
of processes. Nothing is left over at the end of a cell's epoch: the batch goes on with the next one. Where there is one
data set and no buckets, this is ``order``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np

from t2i_jax.data.mixture import Examples, parts_of
from t2i_jax.data.order import at
from t2i_jax.data.settings import Data
from t2i_jax.data.sizes import sizes
from t2i_jax.data.turns import Turns

_MOST = 2**31


@dataclass(frozen=True, eq=False)
class Deal:
    """How examples are dealt to steps. Only buckets that have an example are in it."""

    shapes: tuple[tuple[int, int], ...]
    """Height and width of the pictures, by bucket."""
    members: tuple[np.ndarray | None, ...]
    """Indices of the examples of each bucket, rising; None where all belong to one."""
    bounds: tuple[np.ndarray, ...]
    """Where each data set's examples begin among a bucket's members, and the end: int64 [data sets + 1]."""
    steps: Turns
    """Which bucket a step is of."""
    rows: tuple[Turns, ...]
    """Which data set a row of a bucket's batches is of."""

    def bucket(self, step: int) -> int:
        """The bucket of all examples of a step."""
        return int(self.steps(np.array([step], np.int64))[0][0])

    def visits(self, seed: int, step: int, batch: int, rows: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Epoch (of its cell) and index of each example of a step, or of these rows of it: two int64 [batch]."""
        if batch < 1 or step < 0:
            raise ValueError(f"a deal needs batch >= 1 and step >= 0; got {batch}, {step}")
        (bucket,), (turn,) = self.steps(np.array([step], np.int64))
        number, position = self.rows[bucket](turn * batch + np.arange(*rows.indices(batch), dtype=np.int64))
        epoch, place = np.zeros_like(position), np.zeros_like(position)
        bounds = self.bounds[bucket]
        for part in np.unique(number):
            row = number == part
            cell = int(bucket) * (len(bounds) - 1) + int(part)
            epoch[row], inside = at(seed, position[row], int(bounds[part + 1] - bounds[part]), cell)
            place[row] = bounds[part] + inside
        members = self.members[bucket]
        return epoch, place if members is None else np.asarray(members[place], np.int64)

    def places(self, bucket: int, index: np.ndarray) -> np.ndarray:
        """Where examples of a bucket stand among its members."""
        members = self.members[bucket]
        return index if members is None else np.searchsorted(members, index)

    def bucket_of(self, index: int) -> int:
        """The bucket that an example belongs to."""
        for bucket, members in enumerate(self.members):
            if members is None:
                return bucket
            place = int(np.searchsorted(members, index))
            if place < len(members) and members[place] == index:
                return bucket
        raise IndexError(f"there is no example {index} in any bucket")

    def stand_ins(self, index: int) -> Iterator[int]:
        """The examples that stand in for an unusable one, the first choice first: those that follow it in its cell,
        from its end on to its beginning, then those that follow it anywhere."""
        bucket = self.bucket_of(index)
        members, bounds = self.members[bucket], self.bounds[bucket]
        place = index if members is None else int(np.searchsorted(members, index))
        part = int(np.searchsorted(bounds, place, side="right")) - 1
        first, last = int(bounds[part]), int(bounds[part + 1])
        for other in chain(range(place + 1, last), range(first, place)):
            yield other if members is None else int(members[other])
        total = sum(int(ends[-1]) for ends in self.bounds)
        for other in range(1, total):
            yield (index + other) % total


class Shares:
    """The visits of each step that fall to one process: its contiguous share of the global batch.

    Raises ValueError for a batch that the processes can't share evenly.
    """

    def __init__(self, seed: int, batch: int, deal: Deal, process_index: int = 0, process_count: int = 1):
        if batch % process_count:
            raise ValueError(
                f"data.batch={batch} is not divisible by {process_count} processes; the nearest is "
                f"{max(1, round(batch / process_count)) * process_count}"
            )
        if not 0 <= process_index < process_count:
            raise ValueError(f"there is no process {process_index} among {process_count}")
        self.seed, self.batch, self.deal, self.share = seed, batch, deal, batch // process_count
        self._first = process_index * self.share

    def __call__(self, step: int, start: int = 0, stop: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(epoch, index) of the share's examples at a step, or of its rows from ``start`` to ``stop``: two int64."""
        stop = self.share if stop is None else min(stop, self.share)
        return self.deal.visits(self.seed, step, self.batch, slice(self._first + start, self._first + stop))


def deal_of(data: Data, dataset: Examples, root: Path | None = None) -> Deal:
    """The deal of ``data``, whose data sets are open as ``dataset``.

    Buckets need the size of every picture; ``root`` is the directory where those are kept (see sizes.py). Raises
    ValueError for more examples than a batch's ``index`` can name.
    """
    return _deal(dataset, data.weights, data.shapes, root if data.buckets else None)


def square(dataset: Examples, side: int) -> Deal:
    """The deal of all examples as squares, each data set as often as it is large."""
    lengths = [len(part) for part in parts_of(dataset)]
    return _deal(dataset, tuple(Fraction(n, sum(lengths)) for n in lengths), ((side, side),), None)


@lru_cache(maxsize=8)
def _deal(
    dataset: Examples, weights: tuple[Fraction, ...], shapes: tuple[tuple[int, int], ...], root: Path | None
) -> Deal:
    if len(dataset) > _MOST:
        raise ValueError(f"{dataset.name} has {len(dataset):,} examples; a training takes at most {_MOST:,}")
    parts = parts_of(dataset)
    starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    if len(shapes) == 1:
        return Deal(shapes, (None,), (starts,), Turns.of((1,)), (Turns.of(weights),))
    nearest = np.concatenate([nearest_shape(sizes(part, root), shapes) for part in parts])
    found = [np.flatnonzero(nearest == number) for number in range(len(shapes))]
    used = [number for number, members in enumerate(found) if len(members)]
    bounds = [np.searchsorted(found[number], starts) for number in used]
    cells = [
        [weight * Fraction(int(n), len(part)) for weight, n, part in zip(weights, np.diff(ends), parts)]
        for ends in bounds
    ]
    return Deal(
        tuple(shapes[number] for number in used),
        tuple(found[number].astype(np.int32) for number in used),
        tuple(bounds),
        Turns.of([sum(row) for row in cells]),
        tuple(Turns.of(row) for row in cells),
    )


def nearest_shape(sizes: np.ndarray, shapes: Sequence[tuple[int, int]]) -> np.ndarray:
    """For pictures of ``sizes`` int32 [n, 2] (height, width) the number of the shape, uint8 [n], whose aspect ratio is
    nearest by its logarithm; the first of several. An unknown size, 0 by 0, counts as a square."""
    wanted = np.log([width / height for height, width in shapes])
    known = np.maximum(sizes, 1).astype(np.float32)
    aspect = np.log(known[:, 1] / known[:, 0])
    best, least = np.zeros(len(aspect), np.uint8), np.full(len(aspect), np.inf, np.float32)
    for number, ratio in enumerate(wanted):  # one shape at a time: a billion rows fit memory, a table of them does not
        distance = np.abs(aspect - np.float32(ratio))
        nearer = distance < least
        best[nearer], least[nearer] = number, distance[nearer]
    return best
