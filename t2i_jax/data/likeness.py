"""When are two pictures the same, or nearly: exact digests, and a perceptual hash with a check.

A picture's *likeness* is the SHA-256 of its pixels; a 64-bit difference hash (is the next of 9 × 8 grey cells brighter
by more than a little? "dHash", N. Krawetz 2013; the little keeps the noise of flat areas out); and its 8 × 8 colours.
Two are near where at most ``distance`` bits of the hash differ and no colour by more than 20: the hash alone calls a
red heart and a blue one the same.

An earlier picture is kept, a later one that is near to a kept one is not. Kept hashes stand in four tables by 16 bits
each, so that all within 3 bits of a hash share at least one of the four with it (Manku, Jain and Das Sarma 2007).
"""

import hashlib
from array import array
from collections import defaultdict
from typing import NamedTuple

import numpy as np
from PIL import Image

LIKENESS = np.dtype([("pixels", "u8", 2), ("hash", "u8"), ("colours", "u1", (8, 8, 3))])
MOST_DISTANCE = 3
_DEAD_ZONE, _COLOUR = 3, 20
_STRIP = 1 << 20
_BANDS = tuple(np.arange(0, 64, 16, dtype=np.uint64))
_BOX = Image.Resampling.BOX


def likeness(picture: Image.Image) -> np.void:
    """The likeness of an RGB picture, a scalar of type LIKENESS."""
    width, height = picture.size
    digest = hashlib.sha256(f"{width}x{height}".encode())
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        digest.update(picture.crop((0, top, width, min(top + rows, height))).tobytes())
    small = picture.resize((32, 32), _BOX, reducing_gap=2.0)
    grey = np.asarray(small.convert("L").resize((9, 8), _BOX), np.int16)
    out = np.zeros((), LIKENESS)
    out["pixels"] = np.frombuffer(digest.digest()[:16], np.uint64)
    out["hash"] = np.packbits(grey[:, 1:] - grey[:, :-1] > _DEAD_ZONE).view(">u8")[0]
    out["colours"] = np.asarray(small.resize((8, 8), _BOX))
    return out[()]


class Twin(NamedTuple):
    """The earlier picture that a later one repeats, and whether to the pixel."""

    number: int
    exact: bool


class Seen:
    """The pictures seen so far. ``twin(likeness)`` gives the kept one that it repeats, or None, and then keeps it;
    numbers count the pictures asked about.

    ``distance``: bits that may differ, 0 to 3; None: only the same pixels are the same.
    """

    def __init__(self, distance: int | None = None):
        if distance is not None and not 0 <= distance <= MOST_DISTANCE:
            raise ValueError(f"near={distance}: bits of the hash that may differ, 0 to {MOST_DISTANCE}")
        self._distance, self._count = distance, 0
        self._exact: dict[bytes, Twin] = {}
        self._tables = [defaultdict(lambda: array("I")) for _ in _BANDS]
        self._numbers = array("Q")
        self._hashes, self._colours = _Rows((), np.uint64), _Rows((8, 8, 3), np.uint8)

    def twin(self, of: np.void) -> Twin | None:
        """The earlier picture that stands for this one; None where it is new."""
        number, key = self._count, of["pixels"].tobytes()
        self._count += 1
        if (found := self._exact.get(key)) is not None:
            return found
        if self._distance is not None and (found := self._near(of)) is not None:
            self._exact[key] = Twin(found, False)
            return self._exact[key]
        self._exact[key] = Twin(number, True)
        if self._distance is not None:
            place = len(self._numbers)
            self._numbers.append(number)
            self._hashes.append(of["hash"])
            self._colours.append(of["colours"])
            for table, band in zip(self._tables, self._bands(of)):
                table[band].append(place)
        return None

    def _bands(self, of: np.void) -> list[int]:
        return [int(of["hash"] >> shift & np.uint64(0xFFFF)) for shift in _BANDS]

    def _near(self, of: np.void) -> int | None:
        best = None
        for table, band in zip(self._tables, self._bands(of)):
            if band not in table:
                continue
            places = np.array(table[band], np.int64)
            places = places[np.bitwise_count(self._hashes[places] ^ of["hash"]) <= self._distance]
            difference = self._colours[places].astype(np.int16) - of["colours"].astype(np.int16)
            places = places[np.abs(difference).max((1, 2, 3), initial=0) <= _COLOUR]
            if places.size and (best is None or places[0] < best):
                best = int(places[0])
        return None if best is None else self._numbers[best]


class _Rows:
    """An array that grows."""

    def __init__(self, shape: tuple[int, ...], kind: type):
        self._rows, self._count = np.empty((1024, *shape), kind), 0

    def append(self, row: np.ndarray | np.uint64) -> None:
        if self._count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        self._rows[self._count] = row
        self._count += 1

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        return self._rows[places]
