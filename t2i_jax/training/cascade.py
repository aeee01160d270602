"""All stages of a cascade, a process each: those that don't read each other train side by side.

    commands = {"vae": ["t2i", "train", ...], "clip": [...], "prior": [...]}
    code = train_all(commands, reads={"prior": ("clip",)})

On CPUs half of the cores train one stage and half another: two small models on a core each learn more in a minute than
one after the other on both. With an accelerator, or a single core, the stages follow each other.
"""

import os
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence

from t2i_jax.parallel.memory import on_cpu
from t2i_jax.training.stop import EXIT_STOPPED, Stop

_POLL = 0.1
"""Seconds between looks at the processes."""


def train_all(commands: Mapping[str, Sequence[str]], reads: Mapping[str, Collection[str]]) -> int:
    """Run each stage's command as soon as the stages that it reads are done and cores are free.

    Of the stages that could start, the first in ``commands`` does. Returns 0 when all are done; else the exit code of
    the first that failed, or ``EXIT_STOPPED`` after a signal: what runs then is asked to save and stop, and the same
    call continues it. A second Ctrl-C ends everything at once.
    """
    waiting = dict(commands)
    free = _lanes()
    alone = len(free) == 1
    running: dict[str, tuple[subprocess.Popen, frozenset[int]]] = {}
    code, asked = 0, False
    try:
        with Stop() as stop:
            while running or (waiting and not code):
                code = code or (EXIT_STOPPED if stop.requested else 0)
                if code and not asked:
                    asked = True
                    for process, _ in running.values():
                        process.terminate()
                for name in _ready(waiting, running, reads) if not code else ():
                    if free:
                        cores = free.pop(0)
                        running[name] = _start(waiting.pop(name), cores, alone), cores
                time.sleep(_POLL)
                for name, (process, cores) in list(running.items()):
                    if process.poll() is not None:
                        code = code or process.returncode
                        free.append(cores)
                        del running[name]
    finally:
        for process, _ in running.values():
            process.kill()
            process.wait()
    return code


def _ready(waiting: Collection[str], running: Collection[str], reads: Mapping[str, Collection[str]]) -> list[str]:
    unfinished = {*waiting, *running}
    return [name for name in waiting if unfinished.isdisjoint(reads.get(name, ()))]


def _lanes() -> list[frozenset[int]]:
    """The sets of cores that a stage each can have; one empty set where the stages must follow each other."""
    if sys.platform != "linux" or not on_cpu():
        return [frozenset()]
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    return [frozenset(cores[:half]), frozenset(cores[half:])] if half else [frozenset()]


def _start(command: Sequence[str], cores: frozenset[int], alone: bool) -> subprocess.Popen:
    """A process in a session of its own, so that Ctrl-C reaches it once, through ``train_all``."""
    plain = {} if alone else {"TTY_COMPATIBLE": "0"}  # two live lines would overwrite each other
    before = os.sched_getaffinity(0) if cores else frozenset()
    if cores:
        os.sched_setaffinity(0, cores)  # inherited; XLA counts the cores when it starts its threads
    try:
        return subprocess.Popen(command, start_new_session=True, env=os.environ | plain)
    finally:
        if before:
            os.sched_setaffinity(0, before)
