"""CPU time of two programs that do the same work, turn by turn on one core.

Wall time on a shared machine swings severalfold; the CPU time of one pinned core, measured A B A B, repeats within a few
per cent. ``pin`` has to run before JAX, torch or numpy are imported: they size their thread pools by the cores they see.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


def pin(core: int | None = None) -> int:
    """Confines this process to one core (the last it may use) and one thread; returns the core's number."""
    core = max(os.sched_getaffinity(0)) if core is None else core
    os.sched_setaffinity(0, {core})
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    return core


@dataclass(frozen=True)
class Timing:
    """Median CPU seconds a step of each side over the rounds, and the median of the rounds' own ratios."""

    ours: float
    theirs: float
    ratio: float


def interleaved(ours: Callable[[], object], theirs: Callable[[], object], rounds: int = 8, steps: int = 2) -> Timing:
    """Runs each side ``steps`` times in turn, ``rounds`` times. Each call must return only when its work is done."""
    ours(), theirs()
    pairs = [(cpu_seconds(ours, steps), cpu_seconds(theirs, steps)) for _ in range(rounds)]
    a, b = zip(*pairs)
    return Timing(statistics.median(a), statistics.median(b), statistics.median(x / y for x, y in pairs))


def cpu_seconds(work: Callable[[], object], steps: int) -> float:
    """CPU seconds of one call, all threads together."""
    start = time.process_time()
    for _ in range(steps):
        work()
    return (time.process_time() - start) / steps


def gemm_rate(size: int = 1024) -> float:
    """float32 FLOP/s of a square matrix product on this core: the best of JAX's and torch's."""
    import jax
    import jax.numpy as jnp
    import torch

    a = torch.randn(size, size)
    b = jnp.asarray(a.numpy())
    product = jax.jit(jnp.matmul)
    both = (lambda: product(b, b).block_until_ready(), lambda: a @ a)
    for work in both:
        work()
    return 2 * size**3 / min(cpu_seconds(work, 3) for work in both for _ in range(4))
