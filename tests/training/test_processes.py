"""Several processes train what one does: the same examples, the same noise, the same losses to rounding."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from t2i_jax.parallel.hosts import share
from t2i_jax.parallel.mesh import Mesh, split_batch
from tests.quick import QUICK

SCRIPT = """
import dataclasses, sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[2]))
from t2i_jax.parallel import rules
from t2i_jax.parallel.hosts import join
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.training import train
from t2i_jax.training.experiment import Checkpoints
from tests.test_cascade import shrunk
rules.SMALL = 512  # so that tiny models are split too
join()
for name in ("vae", "clip", "prior", "decoder", "upsampler"):
    experiment = dataclasses.replace(shrunk(name), steps=20, cache_gb=0.0, mesh=eval(sys.argv[3]))
    experiment = dataclasses.replace(experiment, checkpoints=Checkpoints(), reports=dataclasses.replace(
        experiment.reports, preview_every=0))
    data = dataclasses.replace(experiment.data, split="val_pair[:40]")
    assert train(dataclasses.replace(experiment, data=data), sys.argv[1]) == 0
"""
STAGES = ("vae", "clip", "prior", "decoder", "upsampler")


def start(root, processes, devices, mesh):
    """The script in so many processes; returns each stage's losses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK, "PYTHONPATH": os.getcwd()}
    running = []
    for number in range(processes):
        names = {"T2I_COORDINATOR": f"127.0.0.1:{port}", "T2I_PROCESSES": str(processes), "T2I_PROCESS": str(number)}
        command = [sys.executable, "-c", SCRIPT, str(root), str(devices), mesh]
        both = environment | (names if processes > 1 else {})
        running.append(subprocess.Popen(command, env=both, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    try:
        for process in running:
            text, _ = process.communicate(timeout=3000)  # eight programs at once on two cores
            assert process.returncode == 0, text[-3000:]
    finally:
        for process in running:
            process.kill()
            process.wait()
    rows = lambda name: (root / name / "metrics.jsonl").read_text().splitlines()
    return {name: [json.loads(row)["loss"] for row in rows(name)] for name in STAGES}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return start(tmp_path_factory.mktemp("alone"), 1, 1, "Mesh()")


@pytest.mark.stress
@pytest.mark.parametrize("processes, devices, mesh", [
    (1, 8, "Mesh(data=8)"), (1, 8, "Mesh(data=4, model=2)"), (1, 8, "Mesh(replica=2, data=2, model=2)"),
    (2, 2, "Mesh(replica=2, data=2)"), (4, 2, "Mesh(replica=2, data=2, model=2)"),
])  # fmt: skip
def test_any_mesh_and_any_number_of_processes_train_what_one_device_does(alone, tmp_path, processes, devices, mesh):
    for name, losses in start(tmp_path, processes, devices, mesh).items():
        assert len(losses) == 20
        np.testing.assert_allclose(losses, alone[name], rtol=1e-5, err_msg=name)


def test_one_process_reads_every_row():
    assert share(split_batch(Mesh(data=4, model=2).build()), 16) == (0, 1)
