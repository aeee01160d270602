"""The least that a step must hold and send, against what can be counted by hand."""

import dataclasses
import importlib

import jax
import pytest

from t2i_jax.models import attention
from t2i_jax.models.remat import NAMES, Remat, with_remat
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.parallel.rules import leaf_name
from t2i_jax.stages import upsampler
from t2i_jax.training.inputs import batch_shapes
from t2i_jax.training.minimum import held, idle, least_memory, least_messages
from t2i_jax.training.program import build

BATCH = 16


def made(name="prior", remat=None, batch=BATCH, **mesh):
    """A small experiment on eight devices, its program and their mesh."""
    one = importlib.import_module(f"configs.emoji.{name}").config()
    one = dataclasses.replace(with_remat(one, remat or Remat(())), data=dataclasses.replace(one.data, batch=batch))
    built = Mesh(**mesh).build()
    key, batch = jax.eval_shape(lambda: jax.random.key(0)), batch_shapes(one.data)
    frozen = jax.eval_shape(one.stage.expects, key, batch)
    with jax.set_mesh(built):
        return one, build(one, built, frozen, batch, {}), built


def test_what_a_layer_passes_on_is_kept_and_its_kernels_are_whole():
    one, program, mesh = made(data=8)
    model, least = one.stage.model, least_memory(one, program, mesh)
    tokens = model.context + 4
    stream = BATCH // 8 * tokens * model.width * 4
    assert model.depth * stream <= least["kept"] < (model.depth + 4) * stream
    kernels = (3 + 1 + 4 + 4) * model.width**2 * 4
    outcomes = (3 + 1 + 4 + 1) * stream
    assert kernels + outcomes < least["layer"] < 2 * (kernels + outcomes)
    assert least["gradients"] == least["params"]


def test_whoever_keeps_more_needs_more():
    kept = [least_memory(*made(remat=remat, data=8))["kept"] for remat in (Remat(()), Remat(("inner",)), Remat())]
    assert kept[0] < kept[1] < kept[2]


def test_what_goes_to_the_host_takes_no_room_on_the_chip():
    kept = [least_memory(*made(remat=remat, data=8))["kept"] for remat in (Remat(()), Remat((), ("inner",)))]
    assert kept[0] == kept[1]


def test_a_model_that_computes_nothing_again_has_no_layer_at_work():
    assert least_memory(*made("vae", remat=Remat(), data=8))["layer"] == 0


def test_a_batch_of_one_example_a_device_keeps_half_of_what_two_keep(monkeypatch):
    monkeypatch.setattr(attention, "platform", lambda: "tpu")  # whose kernel splits no batch that the devices don't
    one, two = (least_memory(*made(remat=Remat(NAMES), batch=batch, data=8))["kept"] for batch in (8, 16))
    assert 0 < one == two // 2


def test_a_frozen_stage_holds_one_product_whatever_its_layers_would_keep():
    one, program, mesh = made("upsampler", batch=128, data=8)
    free = dataclasses.replace(one, stage=dataclasses.replace(one.stage, vae=with_remat(one.stage.vae, Remat())))
    assert least_memory(one, program, mesh)["layer"] == least_memory(free, program, mesh)["layer"]


def test_what_a_device_computes_alone_is_counted_once(monkeypatch):
    shared = least_memory(*made("upsampler", batch=128, data=8))
    monkeypatch.setattr(upsampler, "PIXELS", 1)
    assert least_memory(*made("upsampler", batch=128, data=8)) == shared


@pytest.mark.parametrize("parts", [1, 4])
def test_a_split_parameter_is_gathered_twice_and_scattered_once(parts):
    _, program, _ = made(data=8)
    split = [leaf for leaf in jax.tree.leaves(program.state.params) if not leaf.sharding.is_fully_replicated]
    messages = 3 * 2 * sum(leaf.size for leaf in split)
    frozen = least_messages(program, parts) / parts - messages
    clip = sum(leaf.size for leaf in jax.tree.leaves(program.frozen))
    assert 0 < frozen <= 2 * clip
    assert split


def test_a_frozen_stage_that_is_not_read_costs_no_message():
    """The decoder reads the words' table, and none of the text tower's layers. Its modulations are never gathered."""
    _, program, _ = made("decoder", data=8)
    everything = sum(2 * leaf.size for leaf in jax.tree.leaves(program.frozen) if not leaf.sharding.is_fully_replicated)
    leaves = jax.tree_util.tree_leaves_with_path(program.state.params)
    split = {leaf_name(path): 2 * leaf.size for path, leaf in leaves if not leaf.sharding.is_fully_replicated}
    own = sum(size for name, size in split.items() if "modulation" not in name)
    assert 0 < least_messages(program, 1) - 3 * own < everything
    assert any("modulation" in name for name in split)


def test_what_a_step_does_not_read_the_compiler_does_not_count():
    _, program, mesh = made("decoder", data=8)
    key = jax.eval_shape(lambda: jax.random.key(0))
    with jax.set_mesh(mesh):
        lowered = program.step.lower(program.state, program.frozen, key, program.batch)
        counted = lowered.compile().memory_analysis().argument_size_in_bytes
    assert idle(program) > 2**20
    assert sum(held(program).values()) - idle(program) == pytest.approx(counted, abs=64)


def test_what_tensor_parallelism_splits_is_gathered_and_held_in_its_share():
    (one, alone, mesh), (two, split, halves) = made(data=4, replica=2), made(data=4, model=2)
    assert 0.5 <= least_messages(split, 1) / least_messages(alone, 1) < 0.55  # the words' table is whole in both
    whole, part = least_memory(one, alone, mesh), least_memory(two, split, halves)
    assert part["layer"] < whole["layer"] and part["kept"] == whole["kept"]
