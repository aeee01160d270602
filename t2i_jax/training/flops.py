"""How many floating-point operations a function does, and how many the machine could do.

The count walks the function's jaxpr: 2 for each multiply-add of matrix products and convolutions (none for what a
convolution pads with), scan bodies times their length (the compiler's own ``cost_analysis`` counts a scan body once).
Elementwise work is left out, recomputation by remat is in. A ``while`` loop of unknown length counts as one turn, of
``cond`` the dearest branch.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

from t2i_jax.parallel.chips import CHIPS
from t2i_jax.parallel.hlotext import meetings

PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": CHIPS["v5e"].flops,
    "TPU v5e": CHIPS["v5e"].flops,
    "TPU v5": CHIPS["v5p"].flops,
    "TPU v5p": CHIPS["v5p"].flops,
    "TPU v6 lite": CHIPS["v6e"].flops,
    "TPU v6e": CHIPS["v6e"].flops,
    "TPU7x": 1153.5e12,  # a chip's 2,307 over its two JAX devices
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
}
"""Dense bfloat16 FLOP/s of one JAX device, from the makers' data sheets, by the start of ``device_kind``."""


Counts = dict[str, Callable]
"""Name of a primitive -> FLOPs of (equation, these counts); of other primitives the jaxprs they carry are counted."""


def count_flops(function: Callable, *args: Any) -> int:
    """FLOPs of ``function(*args)`` on all devices together; args may be ShapeDtypeStructs."""
    return count_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def peak_flops(devices: list[jax.Device] | None = None) -> float | None:
    """FLOP/s that the devices could reach together: the table's, or a CPU's float32 matrix product; None: unknown."""
    devices = jax.devices() if devices is None else devices
    if devices[0].platform == "cpu":
        return _measured()
    peak = chip_peak(devices[0].device_kind)
    return peak and peak * len(devices)


def chip_peak(kind: str) -> float | None:
    """The table's FLOP/s for a ``device_kind``, None where it has none."""
    known = [name for name in PEAKS if kind.startswith(name)]
    return PEAKS[max(known, key=len)] if known else None


def count_jaxpr(jaxpr: core.Jaxpr, counts: Counts | None = None) -> int:
    """FLOPs of a traced program; ``counts`` for each primitive that has some, all that are known unless given."""
    counts = _COUNTS if counts is None else counts
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))  # as every compiler does
    return sum(counts.get(eqn.primitive.name, _inner)(eqn, counts) for eqn in jaxpr.eqns)


def count_kernels(jaxpr: core.Jaxpr) -> int:
    """FLOPs of the Pallas kernels in a traced program."""
    return count_jaxpr(jaxpr, {"pallas_call": _pallas, **_CONTROL})


def _dot(eqn: core.JaxprEqn, counts: Counts) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    depth = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
    return 2 * depth * math.prod(eqn.outvars[0].aval.shape)


def _conv(eqn: core.JaxprEqn, counts: Counts) -> int:
    numbers, given = eqn.params["dimension_numbers"], eqn.params
    left, kernel, out = (var.aval.shape for var in (*eqn.invars, *eqn.outvars))
    sizes = zip(*([shape[axis] for axis in spec[2:]] for shape, spec in zip((left, kernel, out), numbers, strict=True)))
    pads = (low for low, _ in given["padding"])
    steps = zip(given["window_strides"], pads, given["lhs_dilation"], given["rhs_dilation"])
    places = math.prod(meetings(*size, *step) for size, step in zip(sizes, steps, strict=True))
    channels = kernel[numbers.rhs_spec[1]] * out[numbers.out_spec[0]] * out[numbers.out_spec[1]]
    return 2 * places * channels


def _cond(eqn: core.JaxprEqn, counts: Counts) -> int:
    return max(count_jaxpr(branch.jaxpr, counts) for branch in eqn.params["branches"])


def _scan(eqn: core.JaxprEqn, counts: Counts) -> int:
    return eqn.params["length"] * count_jaxpr(eqn.params["jaxpr"].jaxpr, counts)


def _shard_map(eqn: core.JaxprEqn, counts: Counts) -> int:
    return eqn.params["mesh"].size * _inner(eqn, counts)  # inside, shapes are one device's


def _pallas(eqn: core.JaxprEqn, counts: Counts) -> int:
    """A kernel's body for every point of its grid: blocks that a mask lets it skip are counted too."""
    return math.prod(eqn.params["grid_mapping"].grid) * count_jaxpr(eqn.params["jaxpr"], _COUNTS)


def _inner(eqn: core.JaxprEqn, counts: Counts) -> int:
    """Whatever other jaxprs an equation carries (jit, remat, custom derivatives, while), once each."""
    total = 0
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                total += count_jaxpr(item.jaxpr, counts)
            elif isinstance(item, core.Jaxpr):
                total += count_jaxpr(item, counts)
    return total


_CONTROL = {"scan": _scan, "cond": _cond, "shard_map": _shard_map}
_COUNTS = {"dot_general": _dot, "conv_general_dilated": _conv, "pallas_call": _pallas, **_CONTROL}


def _measured(size: int = 1024, repeats: int = 6) -> float:
    product = jax.jit(jnp.matmul)
    matrix = jnp.asarray(np.random.default_rng(0).standard_normal((size, size), np.float32))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)
