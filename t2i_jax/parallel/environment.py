"""What the environment says of the processes that train together.

    told(os.environ)                  # a person says it, by T2I_COORDINATOR, T2I_PROCESSES and T2I_PROCESS
    found(os.environ)                 # the platform knows it: SLURM, Cloud TPU VMs, TPU pods of GKE
    one_a_node(os.environ)            # whether this process has the node's accelerators for itself

On a platform JAX itself finds the coordinator and the numbers. Variables left from another run would make it wait for
hosts that will never come, so they are named here, before anyone waits.
"""

from collections.abc import Mapping

from t2i_jax.parallel.memory import on_cpu

_NAMES = ("T2I_COORDINATOR", "T2I_PROCESSES", "T2I_PROCESS")
_SLICES = ("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID")


def told(environment: Mapping[str, str]) -> dict:
    """What the three variables say, as arguments of ``jax.distributed.initialize``; {} where they are not set.

    Raises ValueError for variables that don't fit together.
    """
    given = {name: environment[name] for name in _NAMES if environment.get(name)}
    if not given:
        return {}
    missing = [name for name in _NAMES if name not in given]
    if missing:
        raise ValueError(f"{', '.join(given)} is set and {', '.join(missing)} is not: set all three, or none")
    coordinator, *numbers = (given[name] for name in _NAMES)
    if not all(number.isdigit() for number in numbers) or int(numbers[1]) >= int(numbers[0]):
        raise ValueError(
            f"T2I_PROCESSES={numbers[0]} and T2I_PROCESS={numbers[1]}: the processes are numbered from 0 to "
            "T2I_PROCESSES - 1"
        )
    if not coordinator.rpartition(":")[2].isdigit() or ":" not in coordinator:
        raise ValueError(f"T2I_COORDINATOR={coordinator}: expected host:port of process 0")
    keys = ("coordinator_address", "num_processes", "process_id")
    return dict(zip(keys, (coordinator, *map(int, numbers))))


def found(environment: Mapping[str, str]) -> bool:
    """Whether the platform (SLURM, or the slices of a TPU host) knows of other processes, as JAX itself asks it.

    Raises ValueError, naming them, for variables that are left from another run, RuntimeError where a TPU host can't
    ask which hosts its slice has.
    """
    cluster = _tpus()
    stale = _stale_slices(environment, cluster)
    if stale:
        where = "the slice of this host was made without it" if cluster else "this machine is in no slice of TPUs"
        raise ValueError(
            f"{', '.join(stale)} is set, and {where}: variables left from another run make JAX wait for hosts that "
            "will never come. Unset them."
        )
    if environment.get("JAX_COORDINATOR_ADDRESS"):
        raise ValueError(
            f"JAX_COORDINATOR_ADDRESS={environment['JAX_COORDINATOR_ADDRESS']} is set: left from another run, it makes "
            "JAX wait for a host that will never come, and alone it does not say how many processes there are. Unset "
            "it; where no platform knows the processes, set T2I_COORDINATOR, T2I_PROCESSES and T2I_PROCESS."
        )
    slurm = int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environment
    return slurm or (cluster is not None and _asked(cluster.get_process_count) > 1)


def one_a_node(environment: Mapping[str, str]) -> bool:
    """Whether this is the only process of its node, as far as SLURM says; its own variables are those of the step."""
    return environment.get("SLURM_STEP_NUM_NODES", "1") == environment.get("SLURM_NTASKS", "1")


def _tpus() -> type | None:
    """JAX's own account of the cluster to which this host of TPUs belongs; None on other machines, or on one alone."""
    from jax._src.clusters import GceTpuCluster, GkeTpuCluster

    if on_cpu():
        return None
    return next((cluster for cluster in (GkeTpuCluster, GceTpuCluster) if _asked(cluster.is_env_present)), None)


def _stale_slices(environment: Mapping[str, str], cluster: type | None) -> list[str]:
    """Variables of a training on several slices that this machine's platform did not set."""
    from jax._src.clusters import GceTpuCluster
    from jax._src.clusters.cloud_tpu_cluster import get_tpu_env_value_from_metadata as recorded

    if cluster is None:
        return sorted(name for name in environment if name.startswith("MEGASCALE_"))
    if cluster is GceTpuCluster:  # where they come from; GKE sets the variables themselves
        return [n for n in _SLICES if n in environment and environment[n] != _asked(lambda n=n: recorded(n))]
    return []


def _asked(question):
    """The answer of the metadata server of a TPU host."""
    try:
        return question()
    except OSError as error:  # requests' own errors are of this kind
        raise RuntimeError(
            f"this machine has TPUs, and the metadata server, which knows the other hosts of its slice, does not "
            f"answer: {error}. On a machine that trains alone set TPU_SKIP_MDS_QUERY=1"
        ) from error
