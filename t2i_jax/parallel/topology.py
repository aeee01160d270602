"""TPUs that this machine does not have, as their compiler knows them.

    with planning():                                  # before JAX's first use
        devices = describe("v5e:16x16", slices=2)     # 512 devices to compile for, none to run on

The compiler is libtpu's (extra ``plan``); it needs no TPU, and one process at a time may hold it.
"""

import os
from importlib.util import find_spec

import jax

_ENVIRONMENT = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-1", "TPU_WORKER_HOSTNAMES": "localhost"}


def describe(topology: str, slices: int = 1) -> list[jax.Device]:
    """The devices of ``slices`` slices of ``topology`` ("v5e:16x16": generation and shape), in the compiler's order.

    Raises ValueError where libtpu is missing, busy or knows no such topology.
    """
    if find_spec("libtpu") is None:
        raise ValueError('the TPU compiler is not installed: pip install "t2i_jax[plan]"')
    from jax.experimental import topologies

    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if name not in os.environ})
    jax.config.update("jax_platforms", "cpu")  # nothing runs on a TPU here, even where there is one
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, num_slices=slices)
    except Exception as error:
        text = str(error).splitlines()[0]
        raise ValueError(
            f"libtpu cannot compile for {slices} × {topology!r}: {text}. A topology is a generation and a shape, such "
            "as v5e:16x16, v6e:8x16 or v5p:8x8x8; another program that uses libtpu must end first."
        ) from error
    return list(found.devices)
