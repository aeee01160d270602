"""Batches of a training as a pure function of the step number.

    for batch in batches(data, dataset, tokenizer, seed=0, start_step=1000):
        batch["image"]      uint8 [b, h, w, 3]
        batch["tokens"]     int32 [b, l]
        batch["index"]      int32 [b]   which example
        batch["caption"]    int32 [b]   which of its texts, in the order of ops.texts_of
        batch["flipped"]    bool  [b]   whether the picture is mirrored

Global indices come from deal.py and the choices from ops.py, so the state of the pipeline is the step. Each process
makes its contiguous share of the global batch, and together they make what one process would. Small data sets are
decoded once (memory.py), large ones are read by index and decoded a few steps ahead (stream.py).
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from t2i_jax.data.checks import check_bad, check_captions, fits_memory
from t2i_jax.data.deal import Deal, Shares, deal_of
from t2i_jax.data.memory import Decoded, decoded
from t2i_jax.data.mixture import Examples
from t2i_jax.data.ops import choose_flips, choose_texts, may_flip, texts_of
from t2i_jax.data.settings import Data
from t2i_jax.data.stream import Stream
from t2i_jax.text.tokenizer import Tokenizer

_SAMPLE = 4096
Unusable = Callable[[Mapping[int, str]], None]


def batches(
    data: Data,
    dataset: Examples,
    tokenizer: Tokenizer,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    images: bool = True,
    deal: Deal | None = None,
    unusable: Unusable = lambda found: None,
) -> Iterator[dict[str, np.ndarray]]:
    """The endless row of batches from ``start_step`` on, of this process's share; see the module.

    ``images=False`` leaves the pictures out and costs next to nothing, for training on cached features. ``deal`` is
    that of the data; without one it is made here, which for buckets reads every picture's header. ``unusable`` is told
    of examples that can't be used, by index with the reason, when they are met.

    Raises ValueError at once, not at the first batch, for a batch that the processes can't share, for captions longer
    than the context unless ``data.truncate`` (of data too large for memory, 4,096 evenly spaced examples are looked
    at), and for data in memory with more than ``data.max_bad`` unusable examples.
    """
    deal = deal or deal_of(data, dataset)
    shares = Shares(seed, data.batch, deal, process_index, process_count)
    if not fits_memory(data, dataset, deal):
        sample = range(0, len(dataset), -(-len(dataset) // _SAMPLE))
        rows = [record["captions"] for record in dataset.records(sample)]
        check_captions(data, dataset, sample, rows, tokenizer)
        return Stream(data, dataset, tokenizer, shares, start_step, images, unusable)
    found = decoded(dataset, deal)
    check_captions(data, dataset, range(len(dataset)), found.captions, tokenizer)
    check_bad(data, dataset, found.bad, len(dataset))
    if found.bad and process_index == 0:
        unusable(found.bad)
    table = Table(data, found.captions, tokens_of(data, found.captions, tokenizer))
    return _from_memory(table, shares, start_step, found if images else None)


def _from_memory(table: "Table", shares: Shares, step: int, found: Decoded | None) -> Iterator[dict[str, np.ndarray]]:
    while True:
        epoch, index = shares(step)
        batch = table.batch(shares.seed, epoch, index)
        if found is not None:
            bucket = shares.deal.bucket(step)
            pictures = found.images[bucket][shares.deal.places(bucket, index)]
            flipped = np.flatnonzero(batch["flipped"])
            pictures[flipped] = pictures[flipped, :, ::-1]
            batch["image"] = pictures
        yield batch
        step += 1


def tokens_of(data: Data, captions: list[list[str]], tokenizer: Tokenizer) -> np.ndarray:
    """The tokens of every text that a visit may see, example by example: int32 [texts, context]."""
    return tokenizer([text for row in captions for text in texts_of(row, data.keyword_probability > 0)], data.context)


def first_texts(data: Data, captions: list[list[str]]) -> np.ndarray:
    """Which row of ``tokens_of`` is the first of each example: int64 [examples]."""
    forms = 2 if data.keyword_probability > 0 else 1
    return np.cumsum([0, *(forms * len(row) for row in captions)])[:-1]


class Table:
    """Tokens of all texts of a split (``tokens_of``) and what may be flipped, for reading rows by visit."""

    def __init__(self, data: Data, captions: list[list[str]], tokens: np.ndarray):
        self._tokens = tokens
        self._first = first_texts(data, captions)
        self._count = np.array([len(row) for row in captions])
        self._may_flip = np.array([data.flip and may_flip(row) for row in captions])
        self._data = data

    def batch(self, seed: int, epoch: np.ndarray, index: np.ndarray) -> dict[str, np.ndarray]:
        """All of a batch but the image."""
        weights, keywords = self._data.caption_weights, self._data.keyword_probability
        caption = choose_texts(seed, epoch, index, self._count[index], weights, keywords)
        return {
            "tokens": self._tokens[self._first[index] + caption],
            "index": index.astype(np.int32),
            "caption": caption.astype(np.int32),
            "flipped": choose_flips(seed, epoch, index, self._may_flip[index]),
        }
