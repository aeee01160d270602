"""Whose turn it is at a position of an endless row that a few takers share in fixed proportions. Pure functions.

    turns = Turns.of((3, 1))
    turns(np.arange(4))             takers [1, 0, 0, 0]; how many turns each had before [0, 0, 1, 2]

The first taker has had ``floor(p * count / total)`` turns before position p, a Beatty sequence; what it leaves is an
endless row again, which the others share in the same way. So every share is exact over each period of ``total``
positions, and never more than one turn a taker away from it in between. A draw by hash would have the shares only on
average, and how many turns a taker had before p, which says which example comes next, would take a count over all
earlier positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import numpy as np

_MOST = 2**31
"""Longest period: a position within it times a count still fits 63 bits."""


@dataclass(frozen=True)
class Turns:
    """``counts[k]`` turns of taker k in every ``sum(counts)`` positions."""

    counts: tuple[int, ...]

    @classmethod
    def of(cls, weights: Sequence[Fraction | int]) -> "Turns":
        """Turns in proportion to ``weights``, none negative: exact where a period of 2^31 can be, else to one turn in
        2^31 (and at least one for every positive weight)."""
        total = sum(map(Fraction, weights))
        if total <= 0 or min(weights) < 0:
            raise ValueError(f"weights {tuple(map(str, weights))}: none may be negative and one must be positive")
        shares = [Fraction(weight) / total for weight in weights]
        period = lcm(*(share.denominator for share in shares))
        if period <= _MOST:
            return cls(tuple(int(share * period) for share in shares))
        room = _MOST - len(shares)
        return cls(tuple(max(1, int(share * room)) if share else 0 for share in shares))

    def __call__(self, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Taker of each position, and how many turns it had before: two int64 [n] for int64 [n]."""
        taker, turn = np.zeros_like(position), np.zeros_like(position)
        open_, rest, total = np.ones(position.shape, bool), position, sum(self.counts)
        for number, count in enumerate(self.counts):
            if not count:
                continue
            before = _share(rest, count, total)
            mine = open_ & (_share(rest + 1, count, total) > before)
            taker[mine], turn[mine] = number, before[mine]
            open_ &= ~mine
            rest, total = rest - before, total - count
        return taker, turn


def _share(position: np.ndarray, count: int, total: int) -> np.ndarray:
    """floor(position * count / total), where the product may not fit 64 bits."""
    return position // total * count + position % total * count // total
