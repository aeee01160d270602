import importlib

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

from t2i_jax.parallel.mesh import Mesh
from t2i_jax.parallel.rules import SMALL, leaf_name, leaf_spec, shardings
from t2i_jax.training.optimizer import Muon
from t2i_jax.training.state import init_state

AXES = {"replica": 1, "data": 4, "model": 2}


def test_moments_and_average_follow_their_parameters_row():
    kernel = {"blocks": {"up": {"kernel": jnp.zeros((3, 128, 512)), "bias": jnp.zeros((3, 512))}}}
    state = {"params": kernel, "ema": kernel, "opt_state": optax.adamw(1e-3).init(kernel)}
    placed = shardings(state, Mesh(data=4, model=2).build())
    specs = {leaf.spec for leaf in jax.tree.leaves(placed)}
    assert specs == {P(None, "data", "model"), P()}
    assert placed["opt_state"][0].mu["blocks"]["up"]["kernel"].spec == P(None, "data", "model")


def test_the_scanned_axis_and_the_window_are_never_split():
    assert leaf_spec("params/blocks/out/kernel", (8, 512, 128), AXES) == P(None, ("model", "data"), None)
    assert leaf_spec("params/last/context_attention_out/kernel", (512, 128), AXES) == P(("model", "data"), None)
    assert leaf_spec("params/last/context_modulation/kernel", (512, 3072), AXES) == P(None, "data")
    assert leaf_spec("params/fc1/kernel", (8, 128, 512), AXES) == P(None, "data", "model")


@pytest.mark.parametrize("name", [
    "decoder/level_3/residual_0/conv1", "encoder/middle/attention/out", "quant_conv", "encoder/level_0/resample",
    "adversary/conv_1", "level_1/residual_0/shortcut",
])  # fmt: skip
def test_convolutions_are_not_split_over_model(name):
    assert leaf_spec(f"params/model/{name}/kernel", (3, 3, 64, 128), AXES) == P(None, None, "data", None)


def test_an_unmatched_leaf_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="no sharding rule matches the leaf 'params/strange'"):
        leaf_spec("params/strange", (4,), AXES)


def test_an_axis_that_does_not_divide_names_leaf_and_axis():
    with pytest.raises(ValueError, match=r"'params/up/kernel'.*dimension 0 \(130\).*'data' \(4\)"):
        leaf_spec("params/up/kernel", (130, 512), AXES)


def test_small_leaves_are_held_whole():
    assert leaf_spec("params/in/kernel", (3, 128), AXES) == P()


@pytest.mark.parametrize("name", ["vae", "polish", "clip", "prior", "decoder", "upsampler"])
def test_every_leaf_of_every_stage_has_a_row_and_divides_over_eight_devices(name):
    experiment = importlib.import_module(f"configs.emoji.{name}").config()
    data, key = experiment.data, jax.random.key(0)
    shapes = {
        "image": jax.ShapeDtypeStruct((8, data.image_size, data.image_size, 3), jnp.uint8),
        "tokens": jax.ShapeDtypeStruct((8, data.context), jnp.int32),
    }
    for optimizer in (experiment.optimizer, Muon()):
        transform = optimizer.build(10)
        state = jax.eval_shape(lambda key, b, t=transform: init_state(experiment.stage, t, key, b), key, shapes)
        placed = shardings(state, Mesh(data=4, model=2).build())
        sizes = jax.tree.leaves(jax.tree.map(lambda leaf: leaf.size, state))
        for (path, where), size in zip(jax.tree_util.tree_leaves_with_path(placed), sizes):
            if leaf_name(path).endswith("/kernel") and size >= SMALL:
                assert "data" in str(where.spec)
