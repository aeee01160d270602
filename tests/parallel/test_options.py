"""Only TPUs' compiler is told more than the program."""

import subprocess
import sys
from importlib.util import find_spec

import jax
import pytest

from t2i_jax.parallel.mesh import Mesh
from t2i_jax.parallel.options import CompilerFails, compiler_options, failures_named

COMPILE = """
import jax
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.parallel.options import SPARSE, V5E, V5E_OVERLAP, compiler_options
from t2i_jax.parallel.topology import describe
cases = [("v5e:2x2", False, V5E), ("v5e:2x2", True, V5E | V5E_OVERLAP)]
cases += [("v6e:2x2", True, SPARSE), ("v5p:2x2x1", True, SPARSE)]
for topology, overlap, wanted in cases:
    mesh = Mesh().build(describe(topology))
    options = compiler_options(mesh, overlap)
    assert options == wanted, (topology, options)
    where = jax.NamedSharding(mesh, jax.P("data"))
    shape = jax.ShapeDtypeStruct((256, 256), "bfloat16", sharding=where)
    loss = lambda w, x: (x @ w).sum()
    jax.jit(jax.grad(loss), out_shardings=where, compiler_options=options).lower(shape, shape).compile()
"""


def test_a_cpu_is_told_nothing():
    assert compiler_options(Mesh().build(jax.devices())) == {}


@pytest.mark.skipif(not find_spec("libtpu"), reason="the TPU compiler is not installed (extra plan)")
def test_the_tpu_compiler_takes_every_option():
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("overlap, advised", [(True, True), (False, False)])
def test_where_the_compiler_fails_the_error_says_what_to_do(overlap, advised):
    with pytest.raises(CompilerFails, match="RET_CHECK") as raised, failures_named(overlap):
        raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure\nand a stack")
    assert ("--no-overlap" in str(raised.value)) == advised and "stack" not in str(raised.value)
    with pytest.raises(jax.errors.JaxRuntimeError), failures_named(overlap):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: too large")
