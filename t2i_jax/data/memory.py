"""A small data set decoded once: all pictures as one uint8 array a shape, all captions as lists.

This is the evaluation's deterministic view of a data set, and the fast path of training. No TensorFlow: importing it
takes longer than decoding 7,000 small pictures.
"""

from collections import Counter
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8

from t2i_jax.data.checks import check_bad
from t2i_jax.data.dataset import check
from t2i_jax.data.deal import Deal, square
from t2i_jax.data.mixture import Examples, named, part_at, title
from t2i_jax.data.pictures import BadPicture, pixels
from t2i_jax.data.settings import Data

_CHUNK = 512


@dataclass(frozen=True, eq=False)
class Decoded:
    """All examples. Example i is ``images[b][place]``, with the bucket and the place that the deal gives it, and
    ``captions[i]``; where it can't be used (see ``bad``), another stands there."""

    images: tuple[np.ndarray, ...]
    """uint8 [b, h, w, 3] of every bucket."""
    captions: list[list[str]]
    bad: dict[int, str]
    """Indices of unusable examples and the reason for each."""


@lru_cache(maxsize=4)
def decoded(dataset: Examples, deal: Deal) -> Decoded:
    """Decode every example at the shape of its bucket. Raises ValueError where none is usable."""
    captions: list[list[str]] = [[]] * len(dataset)
    bad: dict[int, str] = {}
    images = []
    with ThreadPoolExecutor() as pool:
        for shape, members in zip(deal.shapes, deal.members):
            members = np.arange(len(dataset)) if members is None else members
            array = np.empty((len(members), *shape, 3), np.uint8)
            images.append(array)

            def place(where: int, record: dict, array: np.ndarray = array) -> None:
                captions[record["index"]] = record["captions"]
                try:
                    usable(record, array[where])
                except BadPicture as error:
                    bad[record["index"]] = error.reason

            for start in range(0, len(members), _CHUNK):
                records = dataset.records(members[start : start + _CHUNK])
                list(pool.map(place, range(start, start + len(records)), records))
    if len(bad) == len(dataset):
        raise ValueError(f"all {len(bad)} examples of {title(dataset)} are unusable: {dict(Counter(bad.values()))}")
    for index in sorted(bad):
        (record,) = dataset.records([replacement(index, deal, bad)])
        bucket = deal.bucket_of(index)
        usable(record, images[bucket][int(deal.places(bucket, np.array([index]))[0])])
        captions[index] = record["captions"]
    for array in images:
        array.flags.writeable = False
    return Decoded(tuple(images), captions, bad)


def usable(record: dict, out: np.ndarray) -> np.ndarray:
    """The pixels of a record in ``out``, uint8 [h, w, 3]. Raises BadPicture where picture or captions can't be used."""
    check(record)
    return pixels(record["image"], out.shape[:2], out)


def stand_in(
    data: Data, dataset: Examples, deal: Deal, index: int, out: np.ndarray | None, bad: dict[int, str],
    known: dict[int, str],
) -> dict:  # fmt: skip
    """The record of the first usable example that may stand in for ``index``, its pixels in ``out`` if given; those
    before it go into ``bad`` with the reason. ``known``: what any search has found unusable and none looks at again, or
    a file that can't be read would be gone through at every visit. Raises ValueError where that is more of the data
    than ``data.max_bad``, or all."""
    for other in deal.stand_ins(index):
        if other not in known:
            (record,) = dataset.records([other])
            try:
                check(record) if out is None else usable(record, out)
                return record
            except BadPicture as error:
                known[other] = error.reason
        bad[other] = known[other]
        if len(known) > data.max_bad * len(dataset):
            check_bad(data, dataset, dict(known), len(dataset))  # a copy: other threads add to it
    reasons = dict(Counter(dict(known).values()))
    raise ValueError(f"all {len(dataset)} examples of {title(dataset)} are unusable: {reasons}")


def replacement(index: int, deal: Deal, bad: Container[int]) -> int:
    """The example that stands in for an unusable one, on every process the same."""
    return next(other for other in deal.stand_ins(index) if other not in bad)


def arrays(dataset: Examples, image_size: int) -> tuple[UInt8[np.ndarray, "b h w 3"], list[list[str]]]:
    """All pictures and all captions of a split in their order, for evaluation and caches.

    Raises ValueError, naming the example, where one can't be used: a measurement must not replace it in silence.
    """
    found = decoded(dataset, square(dataset, image_size))
    if found.bad:
        index, reason = next(iter(sorted(found.bad.items())))
        (record,) = dataset.records([index])
        raise ValueError(
            f"{len(found.bad)} of {len(dataset)} examples of {named(part_at(dataset, index))} are unusable, first "
            f"{record['key']}: {reason}. Build the data set anew with `t2i data build`, which leaves them out."
        )
    return found.images[0], found.captions
