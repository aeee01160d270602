"""A stage's gradient on a mesh is that of one device. Losses don't tell: the compiler had the loss right and the
gradient wrong where replica, data and model were all split."""

import functools

import jax
import numpy as np
import pytest

from t2i_jax.parallel import rules
from t2i_jax.parallel.mesh import Mesh, replicated, split_batch
from t2i_jax.training.step import make_gradient
from tests.test_cascade import STAGES, shrunk

MESHES = ((2, 2, 2), (2, 1, 4), (4, 1, 2), (1, 2, 4), (1, 4, 2), (1, 1, 8), (2, 4, 1), (1, 8, 1), (8, 1, 1))
EVERYWHERE = [pytest.param(name, sizes, marks=pytest.mark.stress) for name in STAGES for sizes in MESHES]


def numbers(tree, seed, scale):
    """Random ones; what a stage's parameters are at first would not do: layers that begin at zero hide those before."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(0, scale, x.shape).astype(np.float32), tree)


def gradient(name, mesh):
    """The gradient's leaves by name."""
    experiment, rng, key = shrunk(name), np.random.default_rng(0), jax.random.key(0)
    stage = experiment.stage
    batch = {
        "image": rng.integers(0, 256, (8, 64, 64, 3)).astype(np.uint8),
        "tokens": rng.integers(4, 300, (8, experiment.data.context)).astype(np.int32),
    }
    frozen = jax.eval_shape(stage.expects, key, batch)
    features = jax.eval_shape(
        lambda f, b: stage.image_features(f, b["image"]) | stage.text_features(f, b["tokens"]), frozen, batch
    )
    params, frozen = numbers(jax.eval_shape(stage.init, key, batch), 1, 0.2), numbers(frozen, 2, 0.2)
    batch |= numbers(features, 3, 1.0)
    split = rules.shardings(params, mesh)
    where = split, rules.shardings(frozen, mesh), replicated(mesh), dict.fromkeys(batch, split_batch(mesh))
    compute = jax.jit(
        make_gradient(stage, cached=frozenset(("image", "text"))),
        in_shardings=where,
        out_shardings=(replicated(mesh), split),
    )
    _, grads = compute(params, frozen, key, batch)
    return {rules.leaf_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(grads)}


@pytest.fixture(scope="module")
def alone():
    one = Mesh().build(jax.devices()[:1])
    return functools.cache(lambda name: gradient(name, one))


@pytest.mark.parametrize("name, sizes", [("decoder", (2, 2, 2)), *EVERYWHERE])
def test_gradient_on_any_mesh_is_that_of_one_device(alone, name, sizes, monkeypatch):
    monkeypatch.setattr(rules, "SMALL", 512)  # so that tiny models are split too
    expected, found = alone(name), gradient(name, Mesh(*sizes).build())
    whole = np.sqrt(sum(np.linalg.norm(leaf) ** 2 for leaf in expected.values()))
    apart = {
        leaf: float(error)
        for leaf, x in expected.items()
        if (error := np.linalg.norm(found[leaf] - x) / max(np.linalg.norm(x), 1e-4 * whole)) > 1e-3
    }
    assert not apart
