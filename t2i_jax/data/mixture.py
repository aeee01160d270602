"""Several data sets read as one: the examples of the first, then those of the second, and so on.

    found = load_data(Data(dataset=(("emoji64", 3), ("DATA/mine", 1)), split=("train", "val")))
    found.records([0])[0]["key"]

How often each is visited is no matter of the data but of their order: see deal.py.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from t2i_jax.data.dataset import Dataset, load_dataset
from t2i_jax.data.settings import Data


@dataclass(frozen=True, eq=False)
class Mixture:
    """``parts`` one after the other. Reads like a Dataset."""

    parts: tuple[Dataset, ...]

    @property
    def name(self) -> str:
        return " + ".join(part.name for part in self.parts)

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 [parts + 1]: index of the first example of each part; the last is how many there are."""
        return np.cumsum([0, *map(len, self.parts)], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def records(self, indices: Iterable) -> list[dict]:
        """As ``Dataset.records``; a key has the data set's name before it. Raises IndexError for an index outside."""
        index = np.fromiter(indices, np.int64)
        if index.size and not (index.min() >= 0 and index.max() < len(self)):
            raise IndexError(f"{self.name} has examples 0 to {len(self) - 1}, not {index.min()} to {index.max()}")
        of = np.searchsorted(self.starts, index, side="right") - 1
        out: list[dict] = [{}] * len(index)
        for number in np.unique(of).tolist():
            part, where = self.parts[number], np.flatnonzero(of == number)
            for place, record in zip(where, part.records(index[where] - self.starts[number])):
                out[place] = record | {"index": int(index[place]), "key": f"{part.name}/{record['key']}"}
        return out

    @cached_property
    def captions(self) -> list[list[str]]:
        """The captions of every example, read once."""
        return [captions for part in self.parts for captions in part.captions]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the digests of the parts, in their order."""
        return hashlib.sha256("\n".join(part.digest for part in self.parts).encode()).hexdigest()


Examples = Dataset | Mixture


def load_data(data: Data) -> Examples:
    """What ``data`` names: one data set, or a mixture. Raises FileNotFoundError or ValueError that names the one that
    can't be had."""
    parts = tuple(load_dataset(name, split) for name, split in data.parts)
    return parts[0] if len(parts) == 1 else Mixture(parts)


def parts_of(dataset: Examples) -> tuple[Dataset, ...]:
    """The data sets it is made of."""
    return dataset.parts if isinstance(dataset, Mixture) else (dataset,)


def part_at(dataset: Examples, index: int) -> Dataset:
    """The data set that example ``index`` belongs to."""
    if isinstance(dataset, Dataset):
        return dataset
    return dataset.parts[int(np.searchsorted(dataset.starts, index, side="right")) - 1]


def named(part: Dataset) -> str:
    """The data set and its split, for a message."""
    return f"{part.name} {part.split}"


def title(dataset: Examples) -> str:
    """The data sets and their splits, for a message."""
    return " + ".join(map(named, parts_of(dataset)))
