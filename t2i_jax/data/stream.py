"""Batches of data that does not fit memory: read by index, decoded and resized a few steps ahead.

A step's records are read in one go; then every picture is decoded by one of as many threads as there are cores, into
the place in the batch that it will have. libjpeg-turbo and Pillow let go of Python's lock while they work, so the
threads do. An unusable example is replaced by another (``Deal.stand_ins``). All of it is a function of the step, so
every process and every repetition sees the same, and what memory.py shows.
"""

import os
import weakref
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import chain, islice

import numpy as np

from t2i_jax.data.checks import check_bad
from t2i_jax.data.deal import Shares
from t2i_jax.data.memory import usable
from t2i_jax.data.mixture import Examples, named, part_at
from t2i_jax.data.ops import choose_flips, choose_texts, may_flip, text_at
from t2i_jax.data.pictures import BadPicture
from t2i_jax.data.settings import Data
from t2i_jax.text.tokenizer import Tokenizer

_AHEAD = 3
"""Steps that are under way or ready before they are asked for."""
_PIECE = 8
"""Pictures that a thread takes at once."""
_TRIES = 1000


class Stream(Iterator):
    """Iterator of batches from ``step`` on; ``bad`` maps the indices of replaced examples to the reason,
    ``ahead`` has the batches that are being made."""

    def __init__(self, data: Data, dataset: Examples, tokenizer: Tokenizer, shares: Shares, step: int, images: bool):
        self._data, self._dataset, self._share = data, dataset, shares.share
        self._pictures = ThreadPoolExecutor(max(2, len(os.sched_getaffinity(0))), "pictures")
        self._steps = ThreadPoolExecutor(_AHEAD, "steps")
        self._make = _Maker(data, dataset, tokenizer, shares, self._pictures if images else None)
        self.ahead: deque[Future] = deque()
        self._first = self._next = step
        self.bad: dict[int, str] = {}
        weakref.finalize(self, _end, self._steps, self._pictures)

    def close(self) -> None:
        """End the threads that read ahead."""
        _end(self._steps, self._pictures)

    def __next__(self) -> dict[str, np.ndarray]:
        while len(self.ahead) < _AHEAD:
            self.ahead.append(self._steps.submit(self._make, self._next))
            self._next += 1
        batch, bad = self.ahead.popleft().result()
        self.bad |= bad
        steps = max(self._next - len(self.ahead) - self._first, 100)  # one in the first batch is no reason to stop
        check_bad(self._data, self._dataset, self.bad, steps * self._share)
        return batch


class _Maker:
    """A step's batch, and the examples in it that had to be replaced. Holds no reference to the stream, whose end it
    would keep from coming."""

    def __init__(self, data: Data, dataset: Examples, tokenizer: Tokenizer, shares: Shares, pool: Executor | None):
        self._data, self._dataset, self._tokenizer, self._shares, self._pool = data, dataset, tokenizer, shares, pool

    def __call__(self, step: int) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        epoch, index = self._shares(step)
        records, bad = self._dataset.records(index), {}
        batch = self._texts(epoch, index, records)
        shape = self._shares.deal.shapes[self._shares.deal.bucket(step)]
        images = np.empty((len(index), *shape, 3), np.uint8) if self._pool else None

        def place(row: int) -> str | None:
            return self._fault(records[row], images, row, bool(batch["flipped"][row]))

        def piece(start: int) -> list[str | None]:
            return [place(row) for row in range(start, min(start + _PIECE, len(index)))]

        run = self._pool.map if self._pool else map
        faults = chain.from_iterable(run(piece, range(0, len(index), _PIECE)))
        failed = {row: fault for row, fault in enumerate(faults) if fault}
        for row, fault in failed.items():
            bad[records[row]["index"]] = fault
            records[row] = self._stand_in(records[row]["index"], images, row, bad)
        if failed:  # other captions, of which another may be drawn, and which may forbid a flip
            batch = self._texts(epoch, index, records)
            for row in failed:
                place(row)
        return batch if images is None else batch | {"image": images}, bad

    def _fault(self, record: dict, images: np.ndarray | None, row: int, flip: bool) -> str | None:
        """Put a record's picture into its row; what is wrong with it, if anything is."""
        try:
            if images is not None:
                usable(record, images[row, :, ::-1] if flip else images[row])
            elif not record["captions"]:
                raise BadPicture("empty caption")
        except BadPicture as error:
            return error.reason
        return None

    def _stand_in(self, index: int, images: np.ndarray | None, row: int, bad: dict[int, str]) -> dict:
        """The record of the first usable example that may stand in for ``index``; the others go into ``bad``."""
        for other in islice(self._shares.deal.stand_ins(index), _TRIES):
            (record,) = self._dataset.records([other])
            fault = self._fault(record, images, row, False)
            if fault is None:
                return record
            bad[other] = fault
        where = named(part_at(self._dataset, index))
        raise ValueError(f"{len(bad)} examples near {index} of {where} are all unusable: {Counter(bad.values())}")

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


def _end(steps: Executor, pictures: Executor) -> None:
    for pool in (steps, pictures):
        pool.shutdown(wait=False, cancel_futures=True)
