"""Freed host memory serves the next step."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import resource, numpy as np
from t2i_jax.parallel.memory import keep_memory
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    for _ in range(4):
        np.ones(64 << 20, np.uint8)
def new_pages():
    step()
    before = faults()
    step()
    return faults() - before
before = new_pages()
assert keep_memory()
print(before, new_pages())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_a_second_step_touches_no_new_pages():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True,
                          env=os.environ | {"JAX_PLATFORMS": "cpu"})
    mapped_anew, kept = map(int, done.stdout.split())
    assert mapped_anew > 0 and kept < mapped_anew / 10
