"""How many floating-point operations a function does, and how many the machine could do.

The count walks the function's jaxpr: 2 for each multiply-add of matrix products and convolutions, scan bodies times
their length (the compiler's own ``cost_analysis`` counts a scan body once). Elementwise work is left out, recomputation
by remat is in. A ``while`` loop of unknown length counts as one turn, of ``cond`` the dearest branch.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,  # a chip's 2,307 over its two JAX devices
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
}
"""Dense bfloat16 FLOP/s of one JAX device, from the makers' data sheets, by the start of ``device_kind``."""


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


def count_jaxpr(jaxpr: core.Jaxpr) -> int:
    """FLOPs of a traced program."""
    return sum(_COUNTS.get(eqn.primitive.name, _inner)(eqn) for eqn in jaxpr.eqns)


def _dot(eqn: core.JaxprEqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    depth = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
    return 2 * depth * math.prod(eqn.outvars[0].aval.shape)


def _conv(eqn: core.JaxprEqn) -> int:
    numbers = eqn.params["dimension_numbers"]
    kernel = eqn.invars[1].aval.shape
    window = math.prod(kernel[axis] for axis in numbers.rhs_spec[1:])  # input features of a group, and space
    spread = math.prod(eqn.params["lhs_dilation"])  # of a transposed convolution's input most is zeros
    return 2 * window * math.prod(eqn.outvars[0].aval.shape) // spread


def _cond(eqn: core.JaxprEqn) -> int:
    return max(count_jaxpr(branch.jaxpr) for branch in eqn.params["branches"])


def _scan(eqn: core.JaxprEqn) -> int:
    return eqn.params["length"] * count_jaxpr(eqn.params["jaxpr"].jaxpr)


def _inner(eqn: core.JaxprEqn) -> int:
    """Whatever other jaxprs an equation carries (jit, remat, custom derivatives, while), once each."""
    total = 0
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                total += count_jaxpr(item.jaxpr)
            elif isinstance(item, core.Jaxpr):
                total += count_jaxpr(item)
    return total


_COUNTS = {"dot_general": _dot, "conv_general_dilated": _conv, "scan": _scan, "cond": _cond}


def _measured(size: int = 1024, repeats: int = 6) -> float:
    product = jax.jit(jnp.matmul)
    matrix = jnp.asarray(np.random.default_rng(0).standard_normal((size, size), np.float32))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)
