"""Which real pictures and captions an evaluation is about: chosen by seed, decoded once, the same on every machine."""

import json
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from t2i_jax.data import Dataset, arrays, load_dataset
from t2i_jax.data.records import Picked

PAIRED = ("val_pair", "val", "validation", "test")
"""Names of the held-out split that pictures are painted for, the first that a data set has."""
BYTES = 4 << 30
"""Pixels of one split that are held at once, at most."""
UNSEEN = "val_concept"
"""Name of the split of things that no training picture shows, where a data set has one."""


@dataclass(frozen=True, eq=False)
class Subjects:
    """Real pictures of one split, each with one caption."""

    split: str
    images: UInt8[np.ndarray, "b h w 3"]
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, rows: np.ndarray) -> "Subjects":
        """The given rows, in the given order."""
        return Subjects(self.split, self.images[rows], [self.captions[i] for i in rows])

    def choose(self, n: int, seed: int) -> tuple["Subjects", "Subjects"]:
        """(n rows drawn by ``seed``, all the others), both in the split's order; all rows and none where n is more."""
        chosen = np.zeros(len(self), bool)
        chosen[np.random.default_rng(seed).permutation(len(self))[:n]] = True
        return self.take(np.flatnonzero(chosen)), self.take(np.flatnonzero(~chosen))


def splits(name: str) -> dict[str, str]:
    """The splits of the data set ``name`` that an evaluation uses: ``train``, ``held_out`` and, if there, ``unseen``.

    Raises ValueError where there is no held-out split.
    """
    directory = load_dataset(name, "train").directory
    present = [split["name"] for split in json.loads((directory / "dataset_info.json").read_text())["splits"]]
    held_out = next((split for split in PAIRED if split in present), None)
    if held_out is None:
        raise ValueError(
            f"data set {name} has the splits {', '.join(present)}: an evaluation needs pictures that were not trained "
            f"on, in a split named one of {', '.join(PAIRED)}"
        )
    return {"train": "train", "held_out": held_out} | ({"unseen": UNSEEN} if UNSEEN in present else {})


def subjects(name: str, split: str, image_size: int, limit: int = 10_000) -> Subjects:
    """Examples of a split with one caption each: the second of several, which names thing and style in the embedded
    set, else the only one. Of more than ``limit``, or more than fit ``BYTES``, so many are taken, evenly spaced."""
    dataset: Dataset = load_dataset(name, split)
    count = min(limit, BYTES // (3 * image_size**2))
    if len(dataset) > count:
        rows = np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist()
        dataset = replace(dataset, source=Picked(dataset.source, rows))
    images, captions = arrays(dataset, image_size)
    return Subjects(split, images, [texts[min(1, len(texts) - 1)] for texts in captions])
