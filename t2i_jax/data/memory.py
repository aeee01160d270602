"""A small data set decoded once: all pictures as one uint8 array, all captions as lists.

This is the evaluation's deterministic view of a data set, and the fast path of training. No TensorFlow: importing it
takes longer than decoding 7,000 small pictures.
"""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8

from t2i_jax.data.dataset import Dataset, check
from t2i_jax.data.pictures import BadPicture, pixels

_CHUNK = 512


@dataclass(frozen=True, eq=False)
class Decoded:
    """All examples of a split. Example i is ``images[i]`` and ``captions[i]``; where it can't be used (see ``bad``),
    the next usable one stands there."""

    images: UInt8[np.ndarray, "b h w 3"]
    captions: list[list[str]]
    bad: dict[str, str]
    """Keys of unusable examples and the reason for each."""

    def reasons(self) -> Counter:
        """How many examples were unusable, by reason."""
        return Counter(self.bad.values())


@lru_cache(maxsize=4)
def decoded(dataset: Dataset, image_size: int) -> Decoded:
    """Decode a whole split at image_size × image_size. Raises ValueError where no example is usable."""
    size = len(dataset)
    images = np.empty((size, image_size, image_size, 3), np.uint8)
    captions: list[list[str]] = []
    bad: dict[int, tuple[str, str]] = {}

    def place(record: dict) -> None:
        try:
            images[record["index"]] = usable(record, image_size)
        except BadPicture as error:
            bad[record["index"]] = (record["key"], error.reason)

    with ThreadPoolExecutor() as pool:
        for start in range(0, size, _CHUNK):
            records = dataset.records(range(start, min(start + _CHUNK, size)))
            captions += [record["captions"] for record in records]
            list(pool.map(place, records))
    if len(bad) == size:
        reasons = Counter(reason for _, reason in bad.values())
        raise ValueError(f"all {size} examples of {dataset.name} {dataset.split} are unusable: {dict(reasons)}")
    for index in sorted(bad):
        good = replacement(index, size, bad)
        images[index], captions[index] = images[good], captions[good]
    images.flags.writeable = False
    return Decoded(images, captions, {key: reason for key, reason in bad.values()})


def usable(record: dict, image_size: int) -> np.ndarray:
    """The pixels of a record, uint8 [h, w, 3]. Raises BadPicture where picture or captions can't be used."""
    check(record)
    return pixels(record["image"], image_size)


def replacement(index: int, size: int, bad) -> int:
    """The example that stands in for an unusable one: the next that is not bad, on every process the same."""
    candidate = (index + 1) % size
    while candidate in bad:
        candidate = (candidate + 1) % size
    return candidate


def arrays(dataset: Dataset, image_size: int) -> tuple[UInt8[np.ndarray, "b h w 3"], list[list[str]]]:
    """All pictures and all captions of a split in their order, for evaluation and caches.

    Raises ValueError, naming the example, where one can't be used: a measurement must not replace it in silence.
    """
    found = decoded(dataset, image_size)
    if found.bad:
        key, reason = next(iter(found.bad.items()))
        raise ValueError(
            f"{len(found.bad)} of {len(dataset)} examples of {dataset.name} {dataset.split} are unusable, first {key}: "
            f"{reason}. Build the data set anew with `t2i data build`, which leaves them out."
        )
    return found.images, found.captions
