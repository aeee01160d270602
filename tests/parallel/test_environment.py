"""Who trains together: what a person or a platform says in the environment, and what is left there from another run."""

import os
import socket
import sys

import jax
import pytest
import requests
from jax._src.clusters import GceTpuCluster, GkeTpuCluster

from t2i_jax.parallel import environment, hosts
from t2i_jax.parallel.environment import found, told
from t2i_jax.parallel.hosts import barrier, join
from tests.together import together

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
FOUR = {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_NODES": "4"}


@pytest.fixture
def asked(monkeypatch):
    """The arguments of every ``jax.distributed.initialize``, which does nothing."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: calls.append(given))
    return calls


@pytest.fixture
def tpu(monkeypatch):
    """``tpu(**metadata)``: this is a TPU VM, whose metadata server says this; with none it does not answer."""

    def answer(url, **_):
        if metadata is None:
            raise requests.ConnectionError("no route")
        response = requests.Response()
        key = url.rpartition("/")[2]
        response.status_code, response._content = 200 if key in metadata else 404, metadata.get(key, "").encode()
        return response

    metadata = None

    def prepare(given=None):
        nonlocal metadata
        metadata = given
        monkeypatch.setattr(environment, "on_cpu", lambda: False)
        monkeypatch.setattr("jax._src.clusters.cloud_tpu_cluster.running_in_cloud_tpu_vm", True)
        monkeypatch.setattr(requests, "get", answer)
        for name in ("TPU_SKIP_MDS_QUERY", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"):
            monkeypatch.delenv(name, raising=False)

    return prepare


def workers(count, **more):
    hosts = ",".join(f"host{i}" for i in range(count))
    lines = "".join(f"{name}: '{value}'\n" for name, value in more.items())
    return {"agent-worker-number": "0", "worker-network-endpoints": hosts, "tpu-env": lines}


@pytest.mark.parametrize("given, words", [
    ({"T2I_PROCESS": "0"}, "T2I_COORDINATOR, T2I_PROCESSES is not"),
    ({"T2I_COORDINATOR": "a:1", "T2I_PROCESSES": "2", "T2I_PROCESS": "2"}, "numbered from 0"),
    ({"T2I_COORDINATOR": "here", "T2I_PROCESSES": "2", "T2I_PROCESS": "1"}, "host:port"),
])  # fmt: skip
def test_variables_that_do_not_fit_together_are_named(given, words):
    with pytest.raises(ValueError, match=words):
        told(given)


@pytest.mark.parametrize("given, words", [
    ({"MEGASCALE_NUM_SLICES": "4"}, "MEGASCALE_NUM_SLICES is set, and this machine is in no slice"),
    ({"JAX_COORDINATOR_ADDRESS": "old:1"}, "JAX_COORDINATOR_ADDRESS=old:1 is set"),
    (SLURM | FOUR | {"JAX_COORDINATOR_ADDRESS": "old:1"}, "JAX_COORDINATOR_ADDRESS=old:1 is set"),
])  # fmt: skip
def test_variables_left_from_another_run_are_named(asked, given, words):
    with pytest.raises(ValueError, match=words):
        join(given)
    assert not asked


def test_the_environment_says_when_there_are_others():
    assert told({}) == {} and not found({})
    assert found(SLURM | FOUR) and not found(SLURM | {"SLURM_NTASKS": "1"})


def test_the_hosts_of_a_cloud_tpu_slice_join(tpu, asked):
    tpu(workers(4))
    join({})
    assert len(asked) == 1 and "coordinator_address" not in asked[0]


def test_slices_of_one_host_each_join(tpu, asked):
    slices = {"MEGASCALE_NUM_SLICES": "2"}
    tpu(workers(1, **slices))
    join(slices)  # as the metadata have it
    assert len(asked) == 1


def test_a_tpu_host_alone_joins_nobody(tpu, asked, monkeypatch):
    tpu(workers(1))
    join({})
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    assert GkeTpuCluster.is_env_present()
    join({})
    assert not asked


def test_tpu_pods_of_gke_join(tpu, asked, monkeypatch):
    tpu()
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "2")
    join({"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"})
    assert len(asked) == 1


def test_slices_that_the_platform_did_not_make_are_named(tpu, asked):
    tpu(workers(4))
    assert GceTpuCluster.is_env_present()
    with pytest.raises(ValueError, match="MEGASCALE_NUM_SLICES is set, and the slice of this host was made without it"):
        join({"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_PORT": "9000"})
    assert not asked


def test_a_metadata_server_that_does_not_answer_is_named(tpu):
    tpu()
    with pytest.raises(RuntimeError, match="metadata server.*no route.*TPU_SKIP_MDS_QUERY=1"):
        found({})


def test_a_process_that_has_joined_nobody_says_so_at_the_first_barrier(monkeypatch):
    monkeypatch.setattr(hosts.jax, "process_count", lambda: 4)
    with pytest.raises(RuntimeError, match="belong to 4 processes, and this one has not joined.*T2I_COORDINATOR"):
        barrier("nobody")


TOLD = {"T2I_COORDINATOR": "a:1", "T2I_PROCESSES": "2", "T2I_PROCESS": "1"}


@pytest.mark.parametrize("given, devices", [
    (SLURM | FOUR, ()),
    (SLURM | {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_NODES": "2"}, None),  # a GPU each, as JAX has it
    (SLURM | FOUR | {"JAX_LOCAL_DEVICE_IDS": "0,1"}, None),  # JAX reads it
    (SLURM | TOLD, ()),
])  # fmt: skip
def test_only_processes_that_share_a_node_share_its_devices(asked, given, devices):
    join(given)
    assert asked[0]["local_device_ids"] == devices


def test_under_slurm_one_process_a_node_has_all_of_its_gpus():
    script = (
        "import jax; from jax._src import xla_bridge; from t2i_jax.parallel.hosts import join; join()\n"
        "print(jax.process_index(), jax.process_count(), xla_bridge.CUDA_VISIBLE_DEVICES.value, flush=True)"
    )
    with socket.socket() as free:
        for port in range(61440, 65536):  # where JAX puts the coordinator, by the job's number
            if free.connect_ex(("127.0.0.1", port)):
                break
    shared = os.environ | SLURM | {"JAX_PLATFORMS": "cpu", "SLURM_JOB_ID": str(port - 61440), "PYTHONPATH": os.getcwd()}
    shared |= {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "2"}
    command = [sys.executable, "-c", script]
    said = together([(command, shared | {"SLURM_PROCID": str(number)}) for number in range(2)], 120)
    assert [text for text, *_ in said] == ["0 2 all\n", "1 2 all\n"], said
