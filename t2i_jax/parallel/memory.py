"""Host memory: what a step frees on a CPU is kept by the process for the next step.

A step on a CPU allocates its temporaries anew, gigabytes of them. glibc maps such blocks from the kernel and gives them
back, and the kernel clears every page again: a third of a decoder step's CPU time. With the settings below the same
pages serve every step. They hold for threads that start later, so ``keep_memory`` comes before JAX's first computation.
"""

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path

import jax

# glibc's malloc.h. One arena for all threads: those of other threads can't grow past 64 MiB and map what is larger.
_SETTINGS = {"M_ARENA_MAX": (-8, 1), "M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1)}
_PLUGINS = ("libtpu", "jax_cuda12_plugin", "jax_cuda13_plugin")


def keep_memory() -> bool:
    """Tell glibc to keep freed memory, where JAX will compute on a CPU. Returns whether it does.

    Systems without glibc and hosts of accelerators stay as they are: there the temporaries are the device's, and one
    arena would make the input pipeline's threads wait for each other.
    """
    if sys.platform != "linux" or not on_cpu():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(name, value) == 1 for name, value in _SETTINGS.values()])


def on_cpu() -> bool:
    """Whether JAX will choose a CPU, found out without starting a backend."""
    asked = jax.config.jax_platforms
    if asked:
        return asked == "cpu"
    plugins = [name for name in _PLUGINS if find_spec(name)]
    # libtpu alone is the compiler that `t2i plan` asks; a host of TPUs has their devices too.
    return not plugins or (plugins == ["libtpu"] and not any(Path("/dev").glob("accel*")) and not _vfio())


def _vfio() -> bool:
    return any(entry.name.isdigit() for entry in Path("/dev/vfio").glob("*"))
