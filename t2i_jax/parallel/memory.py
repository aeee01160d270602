"""Host memory: what a step frees on a CPU is kept by the process for the next step.

A step on a CPU allocates its temporaries anew, gigabytes of them. glibc maps such blocks from the kernel and gives them
back, and the kernel clears every page again: a third of a decoder step's CPU time. With the settings below the same
pages serve every step.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # glibc's malloc.h


def keep_memory() -> bool:
    """Tell glibc to keep freed memory. Returns whether it does: systems without glibc stay as they are."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {_ARENA_MAX: 1, _MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])
