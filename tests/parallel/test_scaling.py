"""What a device computes and sends does not grow with the number of devices, at the same share of the batch."""

import json
import os
import subprocess
import sys

import pytest

from tests.quick import QUICK

SCRIPT = """
import dataclasses, importlib, json, sys
import jax
devices, name = int(sys.argv[1]), sys.argv[2]
jax.config.update("jax_num_cpu_devices", devices)
from t2i_jax.parallel.hlo import read
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.training import AdamW
from t2i_jax.training.inputs import batch_shapes
from t2i_jax.training.program import build
one = importlib.import_module(f"configs.emoji.{name}").config()
data = dataclasses.replace(one.data, batch=4 * devices)
one = dataclasses.replace(one, data=data, optimizer=AdamW())  # Muon's iterations are split, whatever the batch
mesh, key = Mesh(replica=-1, data=16).build(), jax.eval_shape(lambda: jax.random.key(0))
frozen = jax.eval_shape(one.stage.expects, key, batch_shapes(data)) if one.stage.reads else {}
with jax.set_mesh(mesh):
    program = build(one, mesh, frozen, batch_shapes(data), {})
    text = program.step.lower(program.state, program.frozen, key, program.batch).compile().as_text()
found = read(text, dict(mesh.shape))
print(json.dumps({"flops": found.flops, "bytes": sum(c.times * c.wire for c in found.collectives)}))
"""


def compiled(devices, name):
    """FLOPs and bytes on the wire of one of so many devices, by the program that XLA made for them."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(devices), name], capture_output=True, text=True, timeout=1200, check=False,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.stress
@pytest.mark.parametrize("name", ["vae", "prior", "decoder", "upsampler"])
def test_a_devices_work_and_messages_stay_from_16_to_2048(name):
    """16 devices are one copy of the parameters, 2,048 are 128: the sum of their gradients' shares, which 16 do not
    need, is 4 % of these small models' messages.

    CLIP is left out: its loss compares every example of a batch with every other, so a device's rows grow longer.
    """
    few, many = compiled(16, name), compiled(2048, name)
    work, messages = many["flops"] / few["flops"], many["bytes"] / few["bytes"]
    print(f"{name}: 2,048 devices over 16: FLOPs a device {work:.3f}, bytes {messages:.3f}")
    assert 0.99 <= work <= 1.01
    assert messages <= 1.05
