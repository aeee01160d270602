"""Batches of data that does not fit memory: a tf.data pipeline reads by index, decodes and resizes some steps ahead.

Each step is one element of a tf.data range. Its records are read in one go; then every picture is decoded by one of as
many threads as there are cores, into the place in the batch that it will have. libjpeg-turbo and Pillow let go of
Python's lock while they work, so the threads do; TensorFlow's own decoder takes a fifth longer, and gives other pixels
than those that memory.py shows. An unusable example is replaced by another (``Deal.stand_ins``). All of it is a
function of the step, so every process and every repetition sees the same.
"""

import contextlib
import math
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache
from itertools import chain

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

_AHEAD = 3
"""Steps that are under way at once."""
_PIECE = 8
"""Pictures that a thread takes at once."""


class Stream(Iterator):
    """Iterator of batches from ``step`` on; ``bad`` maps the indices of replaced examples to the reason."""

    def __init__(
        self, data: Data, dataset: Examples, tokenizer: Tokenizer, shares: Shares, step: int, images: bool,
        unusable: Callable[[Mapping[int, str]], None],
    ):  # fmt: skip
        self._data, self._dataset, self._share = data, dataset, shares.share
        self._images, self._first, self._next = images, step, step
        self._pictures = ThreadPoolExecutor(max(2, len(os.sched_getaffinity(0))), "pictures")
        self._make = _Maker(data, dataset, tokenizer, shares, self._pictures if images else None)
        self.bad: dict[int, str] = {}
        self._unusable = unusable
        # TensorFlow's threads call Python: they must be gone before the interpreter is, or it aborts at exit
        self._ahead: list[Iterator] = []
        weakref.finalize(self, _end, self._ahead, self._pictures)

    def close(self) -> None:
        """End the threads that read ahead."""
        _end(self._ahead, self._pictures)

    def __next__(self) -> dict[str, np.ndarray]:
        batch = self._read() if self._images else self._make(self._next)
        self._next += 1
        if new := self._make.bad.pop(self._next - 1, None):
            self.bad |= new
            self._unusable(new)
        steps = max(self._next - self._first, 100)  # one bad example in the first batch is no reason to stop
        check_bad(self._data, self._dataset, self.bad, steps * self._share)
        return batch

    def _read(self) -> dict[str, np.ndarray]:
        if not self._ahead:
            self._ahead.append(pipeline(self._make, self._next).as_numpy_iterator())
        try:
            return next(self._ahead[0])
        except tensorflow().errors.OpError:
            self._ahead.clear()
            self._make(self._next)  # raises what stopped it, in Python's own words
            raise


def pipeline(make: Callable[[int], dict[str, np.ndarray]], step: int):
    """The tf.data.Dataset of the batches that ``make`` makes, from ``step`` on and in order, some ahead of the reader.

    ``make`` must not hold the reader, whose end it would keep from coming.
    """
    tf = tensorflow()
    types = {"tokens": tf.int32, "index": tf.int32, "caption": tf.int32, "flipped": tf.bool, "image": tf.uint8}

    def read(step: np.int64) -> list[np.ndarray]:
        batch = make(int(step))
        return [batch[name] for name in types]

    steps = tf.data.Dataset.range(step, np.iinfo(np.int64).max)
    batches = steps.map(
        lambda step: dict(zip(types, tf.numpy_function(read, [step], [*types.values()]))),
        num_parallel_calls=_AHEAD,
        deterministic=True,
    )
    return batches.prefetch(1)


@cache
def tensorflow():
    """TensorFlow, kept off the accelerators, which belong to JAX."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # whoever used TensorFlow before in this process has settled its devices
        tf.config.set_visible_devices([], "GPU")
    return tf


class _Maker:
    """A step's batch; ``bad`` has, by step, the examples that had to be replaced."""

    def __init__(self, data: Data, dataset: Examples, tokenizer: Tokenizer, shares: Shares, pool: Executor | None):
        self._data, self._dataset, self._tokenizer, self._shares, self._pool = data, dataset, tokenizer, shares, pool
        self.bad: dict[int, dict[int, str]] = {}

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        epoch, index = self._shares(step)
        records, bad = self._dataset.records(index), {}
        batch = self._texts(epoch, index, records)
        shape = self._shares.deal.shapes[self._shares.deal.bucket(step)]
        images = _aligned((len(index), *shape, 3)) if self._pool else None

        def place(row: int) -> str | None:
            return self._fault(records[row], images, row, bool(batch["flipped"][row]))

        def piece(start: int) -> list[str | None]:
            return [place(row) for row in range(start, min(start + _PIECE, len(index)))]

        run = self._pool.map if self._pool else map
        faults = chain.from_iterable(run(piece, range(0, len(index), _PIECE)))
        failed = {row: fault for row, fault in enumerate(faults) if fault}
        for row, fault in failed.items():
            bad[records[row]["index"]] = fault
            out = None if images is None else images[row]
            records[row] = stand_in(self._dataset, self._shares.deal, records[row]["index"], out, bad)
        if failed:  # other captions, of which another may be drawn, and which may forbid a flip
            batch = self._texts(epoch, index, records)
            for row in failed:
                place(row)
        if bad:
            self.bad[step] = bad
        return batch if images is None else batch | {"image": images}

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


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """uint8 array that begins at a multiple of 64 bytes, which TensorFlow takes as it is; any other it copies."""
    size = math.prod(shape)
    room = np.empty(size + 63, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].reshape(shape)


def _end(ahead: list[Iterator], pictures: Executor) -> None:
    ahead.clear()
    pictures.shutdown(wait=False, cancel_futures=True)
