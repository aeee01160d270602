"""Batches onto the devices, a little ahead of the step that uses them.

    with Feed(numpy_batches, sharding) as feed:
        batch = next(feed)

A thread takes batches from the iterator and places them; an error in it is raised by the ``next`` that would have got
that batch.
"""

import queue
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from t2i_jax.types import Batch

_END = object()


class Feed:
    """Iterator of batches on the devices; ``ahead`` of them wait ready. Closing it (or ``with``) ends its thread."""

    def __init__(self, batches: Iterator[dict[str, np.ndarray]], sharding: NamedSharding, ahead: int = 2):
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=ahead)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(batches, sharding), daemon=True, name="feed")
        self._thread.start()

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> Batch:
        item = self._queue.get()
        if item is _END:
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        return item

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.01)  # the thread may be waiting for room
            except queue.Empty:
                continue

    def _fill(self, batches: Iterator[dict[str, np.ndarray]], sharding: NamedSharding) -> None:
        try:
            for batch in batches:
                if self._stopped.is_set():
                    return
                self._queue.put(place(batch, sharding))
            self._queue.put(_END)
        except BaseException as error:  # noqa: BLE001  handed to the thread that asks for the batch
            self._queue.put(error)


def place(batch: dict[str, np.ndarray], sharding: NamedSharding) -> Batch:
    """This process's share of a batch as arrays of the whole one."""
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
