"""Who does the work of a build: this process, several, or an Apache Beam pipeline. All give the same bytes.

    run = Processes(4)
    run(function, tasks)            # function(task) for each task; what is done stays done, where it is interrupted

A task is done when it left its file, so that a runner neither returns nor orders anything.
"""

import multiprocessing
import os
import shlex
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any


class Runner(ABC):
    """Calls ``function`` once for each task."""

    @abstractmethod
    def __call__(self, function: Callable[[Any], None], tasks: Iterable) -> None:
        """Returns when all is done; raises what a call raised."""


@dataclass(frozen=True)
class Processes(Runner):
    """``count`` processes on this machine; one means this process. A script that asks for more needs the usual
    ``if __name__ == "__main__"``."""

    count: int = 1

    def __call__(self, function: Callable[[Any], None], tasks: Iterable) -> None:
        tasks = list(tasks)
        if self.count == 1 or len(tasks) < 2:
            for task in tasks:
                function(task)
            return
        context = multiprocessing.get_context("spawn")
        running: dict[Future, Any] = {}
        with ProcessPoolExecutor(min(self.count, len(tasks)), context, _end_with_parent) as pool:
            try:
                for task in tasks:
                    if len(running) >= 2 * self.count:
                        _take(running, wait(running, return_when=FIRST_COMPLETED).done)
                    running[pool.submit(function, task)] = task
                _take(running, wait(running).done)
            except BrokenProcessPool as error:
                at = [str(task)[:80] for task in running.values()]
                raise RuntimeError(
                    f"a process of the build was killed (no memory?) at one of {at}; the same command goes on from "
                    "what is done, and `--workers 1` needs least memory"
                ) from error
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _take(running: dict[Future, Any], done: Iterable[Future]) -> None:
    for future in done:
        future.result()
        del running[future]


def _end_with_parent() -> None:
    """A killed parent tells its children nothing: watch it, and end with it."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass(frozen=True)
class Beam(Runner):
    """An Apache Beam pipeline with the options of a command line ("--runner=FlinkRunner --parallelism=64"). All its
    machines must see the source and the output under the same path. Needs the extra ``beam``."""

    options: str = ""

    def __call__(self, function: Callable[[Any], None], tasks: Iterable) -> None:
        try:
            import apache_beam as beam
            from apache_beam.options.pipeline_options import PipelineOptions
        except ImportError as error:
            raise ValueError(
                f"no Apache Beam here ({error}). Install t2i_jax with the extra `beam` into an environment of its own, "
                "without the constraints file: Beam wants older versions of pyarrow, pillow and protobuf"
            ) from error
        with beam.Pipeline(options=PipelineOptions(shlex.split(self.options))) as pipeline:
            _ = pipeline | beam.Create(list(tasks)) | beam.Reshuffle() | beam.Map(function)
