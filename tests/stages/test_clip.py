"""CLIP's losses are those of the papers, over the global batch, and no device ever holds all similarities."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t2i_jax.parallel.hlo import read
from t2i_jax.parallel.mesh import Mesh, split_batch
from t2i_jax.stages import clip
from t2i_jax.stages.clip import Sigmoid, Softmax, cosine
from t2i_jax.training.inputs import batch_shapes
from t2i_jax.training.program import build
from tests.test_cascade import shrunk

B = 64


def embeddings(width=16):
    keys = jax.random.split(jax.random.key(0))
    return [cosine(jax.random.normal(key, (B, width))) for key in keys]


def softmax_as_written(logits, smoothing):
    target = optax.smooth_labels(jnp.eye(B), smoothing)
    return sum(optax.softmax_cross_entropy(x, target).mean() for x in (logits, logits.T)) / 2


def sigmoid_as_written(logits, bias):
    return -jax.nn.log_sigmoid((2.0 * jnp.eye(B) - 1.0) * (logits + bias)).sum(-1).mean()


CASES = [
    (Softmax(), lambda logits: softmax_as_written(logits, 0.0)),
    (Softmax(0.1), lambda logits: softmax_as_written(logits, 0.1)),
    (Sigmoid(-3.0), lambda logits: sigmoid_as_written(logits, -3.0)),
]


@pytest.mark.parametrize("objective, written", CASES)
@pytest.mark.parametrize("rows", [B, 8, 1])
def test_the_loss_by_rows_is_the_loss_of_the_whole_matrix(objective, written, rows, monkeypatch):
    monkeypatch.setattr(clip, "MATRIX", 4 * B * rows)
    mine = lambda images, texts, scale: objective(images, texts, scale)[0]
    whole = lambda images, texts, scale: written(scale * images @ texts.T)
    given = (*embeddings(), jnp.float32(7.0))
    (value, grads), (true, true_grads) = (jax.value_and_grad(f, (0, 1, 2))(*given) for f in (mine, whole))
    np.testing.assert_allclose(value, true, rtol=1e-5)
    for a, b in zip(grads, true_grads):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))
    images, texts, scale = given
    np.testing.assert_array_equal(objective(*given)[1], (images @ texts.T).argmax(-1))


@pytest.mark.parametrize("mesh", [Mesh(data=8), Mesh(replica=2, data=2, model=2)])
@pytest.mark.parametrize("objective", [Softmax(0.1), Sigmoid()])
@pytest.mark.parametrize("parts", [1, 4])
def test_no_device_holds_more_similarities_than_its_rows(mesh, objective, parts, monkeypatch):
    mesh = mesh.build()
    share = B // (mesh.shape["replica"] * mesh.shape["data"])
    monkeypatch.setattr(clip, "MATRIX", 4 * B * share // parts)
    images, texts = embeddings(2)
    gradient = jax.value_and_grad(lambda *x: objective(*x, jnp.float32(10.0)), (0, 1), has_aux=True)
    alone = jax.jit(gradient)(images, texts)
    with jax.set_mesh(mesh):
        split = [jax.device_put(x, split_batch(mesh)) for x in (images, texts)]
        compiled = jax.jit(gradient).lower(*split).compile()
        together = compiled(*split)
    shapes = re.findall(r"\[(\d+(?:,\d+)+)\]", compiled.as_text())
    assert max(math.prod(map(int, shape.split(","))) for shape in shapes) <= B * share // parts
    sums = [one for one in read(compiled.as_text(), dict(mesh.shape)).collectives if one.kind == "all-reduce"]
    assert all(one.bytes < images.nbytes for one in sums if "data" in one.axes), "a gradient is summed whole"
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_batch_that_is_taken_in_parts_is_refused():
    experiment = dataclasses.replace(shrunk("clip"), accumulate=2)
    with pytest.raises(ValueError, match="--accumulate 2 would show it a part at a time"):
        build(experiment, Mesh().build(jax.devices()[:1]), {}, batch_shapes(experiment.data), {})
