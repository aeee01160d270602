"""Batches of data that does not fit memory: a tf.data pipeline reads by index, decodes and resizes some steps ahead.

An element is a piece of a step: as many rows as make some megabytes of pixels. One thread makes all of it, reads its
records, decodes every picture into the place in the batch that it will have, draws and encodes the captions; there are
as many threads as cores. libjpeg-turbo and Pillow let go of Python's lock while they work. (TensorFlow's own decoder
takes a fifth longer, and gives other pixels than those that memory.py shows.) An unusable example is replaced by
another (``Deal.stand_ins``). All of it is a function of the step, so every process and every repetition sees the same.
"""

import contextlib
import math
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import cache

import numpy as np

from t2i_jax.data.checks import check_bad
from t2i_jax.data.dataset import check
from t2i_jax.data.deal import Shares
from t2i_jax.data.memory import stand_in, usable
from t2i_jax.data.mixture import Examples
from t2i_jax.data.ops import choose_flips, choose_texts, may_flip, text_at
from t2i_jax.data.pictures import BadPicture
from t2i_jax.data.settings import Data
from t2i_jax.text.tokenizer import Tokenizer

_PIECE = 64
"""Pictures that a thread makes in one go, at most."""
_FEW = 10_000
"""Visits, of which so many may be unusable as the share that is allowed of them: one of the first is no reason to
stop."""
_PIXELS = 16 * 2**20
"""Bytes of them, at most: on a host of a hundred cores as many pieces are under way."""


class Stream(Iterator):
    """Iterator of batches from ``step`` on; ``bad`` maps the indices of replaced examples to the reason."""

    def __init__(
        self, data: Data, dataset: Examples, tokenizer: Tokenizer, shares: Shares, step: int, images: bool,
        unusable: Callable[[Mapping[int, str]], None],
    ):  # fmt: skip
        self._data, self._dataset, self._share = data, dataset, shares.share
        self._images, self._first, self._next = images, step, step
        self._make = _Maker(data, dataset, tokenizer, shares, images)
        self.bad: dict[int, str] = {}
        self._visited: dict[int, str] = {}
        self._unusable = unusable
        # TensorFlow's threads call Python: they must be gone before the interpreter is, or it aborts at exit
        self._ahead: list[Iterator] = []
        weakref.finalize(self, self._ahead.clear)

    def close(self) -> None:
        """End the threads that read ahead."""
        self._ahead.clear()

    def __next__(self) -> dict[str, np.ndarray]:
        step = self._next
        pieces = self._read() if self._images else [self._make(step, 0, self._share)]
        batch = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        if self._images:
            batch["image"] = self._make.images.pop(step)
        self._next += 1
        if new := self._make.bad.pop(step, None):
            self.bad |= new
            self._unusable(new)
        self._check(batch["index"])
        return batch

    def _check(self, index: np.ndarray) -> None:
        """Raise ValueError where too many of all examples are known as unusable, or too many of those that the order
        has visited. Stand-ins are no fair sample: a search may have run through a whole file that can't be read."""
        if not self.bad:
            return
        self._visited |= {int(i): self.bad[int(i)] for i in index if int(i) in self.bad}
        visits, size = (self._next - self._first) * self._share, len(self._dataset)
        check_bad(self._data, self._dataset, self._visited, min(visits, size), min(_FEW, size))
        check_bad(self._data, self._dataset, self.bad, size)

    def _read(self) -> list[dict[str, np.ndarray]]:
        if not self._ahead:
            self._ahead.append(pipeline(self._make, self._next).as_numpy_iterator())
        try:
            return [next(self._ahead[0]) for _ in range(self._make.pieces)]
        except tensorflow().errors.OpError:
            self._ahead.clear()
            self._make(self._next, 0, self._share)  # raises what stopped it, in Python's own words
            raise


def pipeline(make: "_Maker", step: int):
    """The tf.data.Dataset of the pieces that ``make`` makes, from ``step`` on and in order, some ahead of the reader.

    ``make`` must not hold the reader, whose end it would keep from coming.
    """
    tf = tensorflow()
    types = {"tokens": tf.int32, "index": tf.int32, "caption": tf.int32, "flipped": tf.bool}

    def read(number: np.int64) -> list[np.ndarray]:
        step, piece = divmod(int(number), make.pieces)
        found = make(step, piece * make.rows, (piece + 1) * make.rows)
        return [found[name] for name in types]

    pieces = tf.data.Dataset.range(step * make.pieces, np.iinfo(np.int64).max).map(
        lambda number: dict(zip(types, tf.numpy_function(read, [number], [*types.values()]))),
        num_parallel_calls=len(os.sched_getaffinity(0)) + 1,  # one is ready when a thread ends its piece
        deterministic=True,
    )
    return pieces.prefetch(make.pieces)


@cache
def tensorflow():
    """TensorFlow, kept off the accelerators, which belong to JAX."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # whoever used TensorFlow before in this process has settled its devices
        tf.config.set_visible_devices([], "GPU")
    return tf


class _Maker:
    """Pieces of steps. Their pictures are put into the step's array in ``images``; ``bad`` has, by step, the examples
    that had to be replaced. Whoever has all pieces of a step takes both out."""

    def __init__(self, data: Data, dataset: Examples, tokenizer: Tokenizer, shares: Shares, images: bool):
        self._data, self._dataset, self._tokenizer, self._shares = data, dataset, tokenizer, shares
        self._with_images = images
        largest = max(math.prod(shape) for shape in shares.deal.shapes) * 3
        self.rows = min(max(1, _PIXELS // largest), _PIECE, shares.share)
        self.pieces = -(-shares.share // self.rows)
        self.images: dict[int, np.ndarray] = {}
        self.bad: dict[int, dict[int, str]] = {}
        self._known: dict[int, str] = {}

    def __call__(self, step: int, start: int, stop: int) -> dict[str, np.ndarray]:
        """Rows from ``start`` to ``stop`` of the share of a step, without their pictures."""
        deal = self._shares.deal
        epoch, index = self._shares(step, start, stop)
        records, bad = self._dataset.records(index), {}
        batch, images = self._texts(epoch, index, records), None
        if self._with_images:
            whole = (self._shares.share, *deal.shapes[deal.bucket(step)], 3)
            images = self.images.setdefault(step, np.empty(whole, np.uint8))[start:stop]

        def place(row: int) -> str | None:
            return self._fault(records[row], images, row, bool(batch["flipped"][row]))

        failed = {row: fault for row in range(len(index)) if (fault := place(row))}
        for row, fault in failed.items():
            example, out = records[row]["index"], None if images is None else images[row]
            bad[example] = self._known[example] = fault
            records[row] = stand_in(self._data, self._dataset, deal, example, out, bad, self._known)
        if failed:  # other captions, of which another may be drawn, and which may forbid a flip
            batch = self._texts(epoch, index, records)
            for row in failed:
                place(row)
        if bad:
            self.bad.setdefault(step, {}).update(bad)
        return batch

    def _fault(self, record: dict, images: np.ndarray | None, row: int, flip: bool) -> str | None:
        """Put a record's picture into its row; what is wrong with it, if anything is."""
        try:
            if images is not None:
                usable(record, images[row, :, ::-1] if flip else images[row])
            else:
                check(record)
        except BadPicture as error:
            return error.reason
        return None

    def _texts(self, epoch: np.ndarray, index: np.ndarray, records: list[dict]) -> dict[str, np.ndarray]:
        """A batch without pictures."""
        data, seed = self._data, self._shares.seed
        rows = [record["captions"] or [""] for record in records]
        count = np.array([len(captions) for captions in rows])
        allowed = np.array([data.flip and may_flip(captions) for captions in rows])
        caption = choose_texts(seed, epoch, index, count, data.caption_weights, data.keyword_probability)
        return {
            "tokens": self._tokenizer([text_at(row, int(c)) for row, c in zip(rows, caption)], data.context),
            "index": index.astype(np.int32),
            "caption": caption.astype(np.int32),
            "flipped": choose_flips(seed, epoch, index, allowed),
        }
