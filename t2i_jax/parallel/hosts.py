"""The processes that train together, one a host.

    join()                    # first of all; does nothing where there is one process
    if leader(): ...          # process 0: what is written once
    barrier("tokenizer")      # nobody goes on before all are here
    with company(): ...       # an error inside ends this process, whatever the others wait for

On TPU hosts, GKE and SLURM the processes find each other; elsewhere three variables say it: ``T2I_COORDINATOR``
(host:port of process 0), ``T2I_PROCESSES`` (how many) and ``T2I_PROCESS`` (which one this is).

A process that dies is noticed by the others within ``HEARTBEAT`` seconds; they end too, without a word to Python (the
runtime aborts), and whoever started them starts all again from the last checkpoint.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding

from t2i_jax.parallel.environment import found, one_a_node, told

HEARTBEAT = 30
"""Seconds without a sign of life after which a process counts as dead."""
TIMEOUT = 300
"""Seconds that processes wait for each other, at the start and at every barrier."""
_announced: list[BaseException] = []


def join(environment: dict[str, str] | None = None) -> None:
    """Join the other processes where the environment tells of some; comes before JAX's first computation.

    Raises ValueError for variables that don't fit together or are left from another run, RuntimeError where the others
    don't come within ``TIMEOUT`` seconds.
    """
    environment = dict(os.environ) if environment is None else environment
    if jax.distributed.is_initialized():
        return
    explicit = told(environment)
    if not (explicit or found(environment)):
        return
    # JAX gives a process under SLURM the one GPU of its number on the node. () stands for all: None is replaced.
    whole = (explicit or one_a_node(environment)) and not environment.get("JAX_LOCAL_DEVICE_IDS")
    try:
        jax.distributed.initialize(
            **explicit,
            local_device_ids=() if whole else None,
            initialization_timeout=TIMEOUT,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=TIMEOUT,
        )
    except Exception as error:
        where = explicit.get("coordinator_address", "the place that the platform names")
        raise RuntimeError(
            f"the processes of this run did not find each other at {where} within {TIMEOUT} s: {error}. Is the program "
            "started on every host, with the same coordinator, and is its port open between them?"
        ) from error


def leader() -> bool:
    """Whether this process writes what is written once."""
    return jax.process_index() == 0


def barrier(name: str, timeout: int = TIMEOUT) -> None:
    """Wait until every process has come to the barrier of this name; each name is used once in a run.

    Raises RuntimeError, naming it, after ``timeout`` seconds. One that may be long costs little: a process that dies is
    noticed all the same.
    """
    if jax.process_count() == 1:
        return
    client = _client()  # jax.experimental's own barrier has no timeout
    try:
        client.wait_at_barrier(name, timeout * 1000)
    except Exception as error:
        raise RuntimeError(f"not all processes came to the barrier {name!r} within {timeout} s: {error}") from error


def exchange(name: str, word: str, timeout_ms: int) -> list[str]:
    """What every process has to say at the place ``name``, in their order, once all have come; each name is used once.

    Needs no device, so that any thread may call it while the main one trains. Raises what the runtime raises where a
    process does not come in time.
    """
    client = _client()
    client.key_value_set(f"{name}/{jax.process_index()}", word)
    client.wait_at_barrier(f"{name}/all", timeout_ms)
    said = {key.rpartition("/")[2]: value for key, value in client.key_value_dir_get(f"{name}/")}
    return [said[str(process)] for process in range(jax.process_count())]


def forget(name: str) -> None:
    """Let go of what was said at all places whose names begin with ``name/``."""
    _client().key_value_delete(f"{name}/")


def _client():
    """What speaks to the other processes. Raises RuntimeError where this one has not joined them."""
    from jax._src import distributed

    client = distributed.global_state.client
    if client is None:
        raise RuntimeError(
            f"the devices belong to {jax.process_count()} processes, and this one has not joined the others: nothing "
            "told it of them (see t2i_jax.parallel.hosts). Set T2I_COORDINATOR, T2I_PROCESSES and T2I_PROCESS"
        )
    return client


def announce(error: BaseException) -> None:
    """Say at once, on stderr, what ends this process; once for each error. Does nothing where there is one process."""
    from jax._src import distributed

    state = distributed.global_state
    if state.client is not None and error not in _announced:
        _announced.append(error)
        with contextlib.suppress(OSError):
            text = f"process {state.process_id} of {state.num_processes} ends: {type(error).__name__}: {error}"
            print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def company() -> Iterator[None]:
    """What raises inside is announced and ends this process, whatever the others do.

    All may raise alike (a config that none of them takes): then they end together, each with its own exit code. The
    others of one that raises alone wait for it in a computation, so it waits ``HEARTBEAT`` seconds for them and no
    longer; that it is gone ends them.
    """
    try:
        yield
    except BaseException as error:
        announce(error)
        _part()
        raise


def _part() -> None:
    """Spare this process the runtime's own wait for the others at its end, unless they are about to end as well."""
    from jax._src import distributed

    state = distributed.global_state
    if state.client is None:
        return
    try:
        state.client.wait_at_barrier(f"t2i/ended by error {len(_announced)}", 1000 * HEARTBEAT)
    except Exception:  # noqa: BLE001  whatever it is, they are not there
        for left in (state.client, state.service, state.preemption_sync_manager):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(left))  # never freed: that would wait, too
        state.client = state.service = state.preemption_sync_manager = None


def share(sharding: NamedSharding, rows: int) -> tuple[int, int]:
    """(number, count): which of how many equal runs of ``rows`` rows this process's devices hold.

    Several processes may hold the same: then they feed the same.
    """
    slices = [index[0].indices(rows) for index in sharding.addressable_devices_indices_map((rows,)).values()]
    first, last = min(start for start, _, _ in slices), max(stop for _, stop, _ in slices)
    width = last - first
    held = np.zeros(rows, bool)
    for start, stop, _ in slices:
        held[start:stop] = True
    if not held[first:last].all() or rows % width or first % width:
        raise ValueError(
            f"the devices of process {jax.process_index()} hold rows of a batch that are no even run of it; order the "
            "mesh so that the devices of a process are neighbours (mesh.model as large as a host, or smaller)"
        )
    return first // width, rows // width
