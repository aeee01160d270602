"""The configs of the paper's sizes, shrunk, train: half precision, recomputed layers, and a mesh with two copies."""

import dataclasses
import importlib

import jax
import numpy as np
import pytest

from t2i_jax.models.clip import CLIP, TextTower, VisionTower
from t2i_jax.models.mmdit import MMDiT
from t2i_jax.models.prior import PriorTransformer
from t2i_jax.models.vae import AutoencoderKL
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.training.inputs import batch_shapes
from t2i_jax.training.program import build

BATCH, CONTEXT = 8, 8
NETWORK = {"width": 16, "depth": 2, "heads": 2}
SMALL = {
    MMDiT: NETWORK | {"context_width": 16, "pooled_width": 16},
    PriorTransformer: NETWORK | {"context": CONTEXT, "embedding": 16, "text_width": 16},
    TextTower: NETWORK | {"context": CONTEXT, "vocab": 512},
    VisionTower: NETWORK | {"image_size": 64},
    CLIP: {"embedding": 16},
    AutoencoderKL: {"channels": (8, 8, 8, 8), "layers": 1, "groups": 4},
}


def shrunk(model):
    """The same model, its kind of numbers and its policies as they are, at the smallest size."""
    inner = {"text": shrunk(model.text), "vision": shrunk(model.vision)} if isinstance(model, CLIP) else {}
    return dataclasses.replace(model, **SMALL[type(model)], **inner)


REST = (("vae", 64), ("clip", 64), ("decoder", 64), ("upsampler256", 64), ("upsampler1024", 128))


@pytest.mark.parametrize("name, size", [("prior", 64), *(pytest.param(*one, marks=pytest.mark.stress) for one in REST)])
def test_two_steps_of_each(name, size):
    experiment = importlib.import_module(f"configs.dalle2.{name}").config()
    stage = experiment.stage
    models = {n: shrunk(getattr(stage, n)) for n in ("model", "vae", "clip") if hasattr(stage, n)}
    if name == "decoder":
        models["model"] = dataclasses.replace(models["model"], pooled_width=32)  # image embedding and mean of the words
    data = dataclasses.replace(experiment.data, batch=BATCH, context=CONTEXT, image_size=size)
    experiment = dataclasses.replace(experiment, stage=dataclasses.replace(stage, **models), data=data)
    rng, key = np.random.default_rng(0), jax.random.key(0)
    draw = lambda x: rng.integers(0, 250, x.shape).astype(x.dtype)
    batch = {leaf: draw(shape) for leaf, shape in batch_shapes(data).items()}
    mesh = Mesh(replica=2, data=4).build()
    with jax.set_mesh(mesh):
        frozen = jax.jit(experiment.stage.expects)(key, batch) if stage.reads else {}
        program = build(experiment, mesh, frozen, batch, {})
        frozen, step, state = program.place_frozen(frozen), program.compile(), program.init(key)
        before = jax.device_get(state.params)
        for number in range(2):
            state, metrics = step(state, frozen, jax.random.fold_in(key, number), batch)
            assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])
    assert int(state.step) == 2
    moved = jax.tree.map(lambda a, b: (a != b).any(), jax.device_get(state.params), before)
    assert any(jax.tree.leaves(moved))  # what begins as zero keeps most of an MM-DiT where it is
