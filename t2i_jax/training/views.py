"""The views of a data set that features are computed for, and in which row of the cache each stands."""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from t2i_jax.data import Data
from t2i_jax.data.deal import Deal
from t2i_jax.data.memory import replacement, usable
from t2i_jax.data.mixture import Examples
from t2i_jax.data.ops import may_flip
from t2i_jax.data.pictures import BadPicture
from t2i_jax.data.pipeline import first_texts


@dataclass(frozen=True, eq=False)
class ImageViews:
    """Every picture, and its mirror image behind it where its captions allow that."""

    allowed: np.ndarray
    """bool [examples]: whether the mirror image is a view."""
    first: np.ndarray
    """int64 [examples]: row of each example's picture."""

    @classmethod
    def of(cls, data: Data, captions: list[list[str]]) -> "ImageViews":
        allowed = np.array([data.flip and may_flip(row) for row in captions], bool)
        return cls(allowed, np.cumsum(1 + allowed) - (1 + allowed))

    def __len__(self) -> int:
        return len(self.allowed) + int(self.allowed.sum())

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.allowed.tobytes()).hexdigest()

    def rows(self, index: np.ndarray, flipped: np.ndarray) -> np.ndarray:
        """Rows of the views of examples ``index`` [b], mirrored where ``flipped`` [b]."""
        return self.first[index] + flipped

    def chunks(
        self, dataset: Examples, shape: tuple[int, int], chunk: int, bad: dict[int, str]
    ) -> Iterator[np.ndarray]:
        """The views' pixels, uint8 [chunk or fewer, h, w, 3], row by row. Unusable examples are black and are
        written into ``bad`` with the reason."""
        example = np.repeat(np.arange(len(self.allowed)), 1 + self.allowed)
        mirrored = np.arange(len(example)) != self.first[example]

        def read(record: dict) -> np.ndarray:
            picture = np.zeros((*shape, 3), np.uint8)
            try:
                return usable(record, picture)
            except BadPicture as error:
                bad[record["index"]] = error.reason
                return picture

        with ThreadPoolExecutor() as pool:
            for start in range(0, len(example), chunk):
                wanted, place = np.unique(example[start : start + chunk], return_inverse=True)
                pictures = np.stack(list(pool.map(read, dataset.records(wanted))))[place]
                flip = mirrored[start : start + chunk]
                pictures[flip] = pictures[flip, :, ::-1]
                yield pictures

    def replaced(self, stand_in: np.ndarray) -> "ImageViews":
        """The same rows, where example ``stand_in[i]`` stands in for example i."""
        return ImageViews(self.allowed[stand_in], self.first[stand_in])


@dataclass(frozen=True, eq=False)
class TextViews:
    """Every distinct row of tokens that a visit may see."""

    tokens: np.ndarray
    """int32 [rows, l]."""
    first: np.ndarray
    """int64 [examples]: place of each example's first text among all texts."""
    row: np.ndarray
    """int64 [texts]: row of each text."""

    @classmethod
    def of(cls, data: Data, captions: list[list[str]], tokens: np.ndarray) -> "TextViews":
        """``tokens``: those of the captions, as ``pipeline.tokens_of`` gives them."""
        unique, row = np.unique(tokens, axis=0, return_inverse=True)
        return cls(unique, first_texts(data, captions), row.reshape(-1))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.tokens.shape}".encode() + self.tokens.tobytes()).hexdigest()

    def rows(self, index: np.ndarray, text: np.ndarray) -> np.ndarray:
        """Rows of the texts that examples ``index`` [b] show: each's ``text``-th [b]."""
        return self.row[self.first[index] + text]

    def chunks(self, chunk: int) -> Iterator[np.ndarray]:
        """The tokens, int32 [chunk or fewer, l], row by row."""
        return (self.tokens[start : start + chunk] for start in range(0, len(self), chunk))


def stand_ins(deal: Deal, size: int, bad: Mapping[int, str]) -> np.ndarray:
    """int64 [size]: every example's own number; for the ``bad`` ones that of the one which the pipeline shows."""
    index = np.arange(size)
    for example in bad:
        index[example] = replacement(example, deal, bad)
    return index
