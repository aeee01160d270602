"""The search finds what compiling every choice would find, in a few compilations."""

import dataclasses
import importlib
import zlib

import jax
import jax.numpy as jnp
import pytest

from t2i_jax import planning
from t2i_jax.cli import main
from t2i_jax.dalle2 import STAGES, DallE2
from t2i_jax.models.remat import ALL, NAMES, Remat
from t2i_jax.parallel.chips import CHIPS
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.parallel.options import CompilerFails
from t2i_jax.training import search
from t2i_jax.training.plan import DoesNotFit, Plan
from t2i_jax.training.search import KEPT, Training, _messages, choices, painting_choices, tried

CHIP = CHIPS["v5e"]
GIB = 2**30


@pytest.fixture(scope="module")
def experiment():
    """A small prior whose batch eight devices divide."""
    one = importlib.import_module("configs.emoji.prior").config()
    return dataclasses.replace(one, data=dataclasses.replace(one.data, batch=256))


@pytest.fixture(scope="module")
def ways(experiment):
    return choices(experiment, "v5e:2x4", jax.devices(), 1)


class Compiler:
    """Stands for the TPU compiler: a choice takes about ``slower`` times its bound, and memory for what it keeps.

    Tensor parallelism costs messages besides.
    """

    def __init__(self, slower, room, spread=0.0, says=True):
        self.slower, self.room, self.spread, self.says, self.calls = slower, room, spread, says, 0

    def cost(self, way):
        """Seconds and bytes."""
        kept = len(KEPT) - KEPT.index(way.remat.keep)
        luck = 1 + self.spread * (zlib.crc32(str(way).encode()) % 7) / 6
        tensor = 1 + 0.5 * (way.mesh.model - 1)
        return self.slower * luck * tensor * way.bound, way.held + kept * self.room // way.accumulate // way.mesh.model

    def __call__(self, way):
        self.calls += 1
        seconds, needed = self.cost(way)
        if needed > CHIP.usable and self.says:
            raise DoesNotFit(f"Used {needed}", needed)
        flops = int(seconds * CHIP.flops * 8)
        return Plan(
            stage="prior", topology="v5e:2x4", slices=1, mesh={"replica": 1, "data": 8, "model": 1}, batch=256, steps=1,
            parameters=1, memory={"peak": needed}, usable=int(CHIP.usable), model_flops=flops, flops=flops, traffic=0,
            host=0, collectives=(), waits={}, in_order=0.0, warnings=(), compile_seconds=0.0, compile_bytes=0,
            least={"params": 1}, least_messages=1,
        )  # fmt: skip


def test_choices_divide_the_batch_and_the_devices(ways, experiment):
    assert {way.mesh.model for way in ways} > {1} and {way.accumulate for way in ways} > {1}
    for way in ways:
        sizes = way.mesh.replica, way.mesh.data, way.mesh.model
        assert way.mesh.sizes(8) == sizes
        assert experiment.data.batch % (way.mesh.replica * way.mesh.data * way.accumulate) == 0


def test_keeping_less_computes_more(ways):
    compute = lambda keep: {way.compute for way in ways if way.remat == Remat(keep)}
    (none,), (everything,) = compute(()), compute((ALL,))
    assert 1.1 < none / everything < 1.34  # a third of the prior's own products; none of CLIP's


def test_what_goes_to_the_host_is_not_computed_again_and_takes_its_way_there_and_back(ways, experiment):
    alike = [way for way in ways if way.mesh == Mesh(1, 8, 1) and way.accumulate == 1]
    found = {(way.remat.keep, way.remat.offload): way for way in alike}
    away, kept = found[(), NAMES], found[NAMES, ()]
    assert away.compute == kept.compute < found[(), ()].compute and kept.host == 0
    assert away.bound == max(away.compute, away.messages, away.host)
    model = experiment.stage.model
    product = 256 // 8 * (model.context + 4) * model.width * 4  # bytes, of which a layer has 3 + 1 + 4 + 1
    assert away.host * CHIP.host == pytest.approx(2 * 9 * model.depth * product, rel=0.15)
    assert found[("outer",), ("qkv", "mixed")].host < found[("outer",), ("qkv", "mixed", "inner")].host < away.host


def test_what_does_not_fit_with_room_for_the_way_to_the_host_may_fit_without(ways):
    sent = next(way for way in ways if way.remat == Remat((), NAMES))
    alike = (way for way in ways if (way.mesh, way.accumulate) == (sent.mesh, sent.accumulate))
    near = next(way for way in alike if way.remat == Remat(()))
    assert sent.works_on_as_much(near) and not near.works_on_as_much(sent)


def test_a_choice_is_the_experiment_trained_otherwise(ways, experiment):
    way = next(way for way in ways if way.accumulate == 2 and way.remat == Remat(()) and way.mesh == Mesh(2, 4, 1))
    one = way.of(experiment)
    assert one.stage.model.remat == Remat(()) and one.accumulate == 2 and one.mesh == Mesh(2, 4, 1)
    assert one.data == experiment.data and one.optimizer == experiment.optimizer


def test_a_choice_on_which_the_compiler_fails_is_named_and_the_others_are_tried(ways):
    compiler, first = Compiler(1.0, 0), []

    def plan(way):
        first.append(way)
        if way is first[0]:
            raise CompilerFails("the compiler fails: INTERNAL: RET_CHECK failure")
        return compiler(way)

    found = tried(ways, plan, CHIP, compiles=3)
    assert found.plans and found.misfits == [(first[0], "the compiler fails: INTERNAL: RET_CHECK failure")]


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("room", [GIB, 4 * GIB, 7 * GIB, 40 * GIB])
def test_it_finds_what_compiling_everything_finds(ways, room, says):
    compiler = Compiler(1.1, room, 0.3, says)
    fit = [seconds for seconds, needed in map(compiler.cost, ways) if needed <= CHIP.usable]
    found = tried(ways, compiler, CHIP, compiles=len(ways))
    assert found.left == 0 and compiler.calls < len(ways)
    assert found.plans[0][1].seconds()["at best"] == pytest.approx(min(fit), rel=1e-6)
    assert all(plan.memory["peak"] <= CHIP.usable for _, plan in found.plans)


@pytest.mark.parametrize("room", [GIB, 4 * GIB, 7 * GIB, 40 * GIB])
def test_ten_compilations_do_where_programs_keep_what_they_promise(ways, room):
    compiler = Compiler(1.0, room)
    fit = [seconds for seconds, needed in map(compiler.cost, ways) if needed <= CHIP.usable]
    found = tried(ways, compiler, CHIP, compiles=10)
    assert found.plans[0][1].seconds()["at best"] == pytest.approx(min(fit), rel=1e-6)


def test_the_fastest_is_told_by_its_operations_in_their_order(ways):
    compiler = Compiler(1.0, 0)
    slowest_first = lambda way: dataclasses.replace(compiler(way), in_order=100.0 - compiler.calls)
    found = tried(ways, slowest_first, CHIP, compiles=5)
    assert [plan.in_order for _, plan in found.plans] == [95.0, 96.0, 97.0, 98.0, 99.0]


def test_it_stops_after_so_many_compilations_and_says_what_is_left(ways):
    compiler = Compiler(3.0, GIB)
    found = tried(ways, compiler, CHIP, compiles=4)
    assert compiler.calls == 4 and found.left > 0 and f"{found.left} more were not tried" in found.report()


def test_what_does_not_fit_rules_out_what_needs_as_much(ways):
    compiler = Compiler(1.0, 100_000 * GIB)
    found = tried(ways, compiler, CHIP, compiles=len(ways))
    assert not found.plans and compiler.calls < len(ways) / 2
    assert "does not fit" in found.report()


@pytest.mark.parametrize("says", [True, False])
def test_a_state_that_is_split_further_may_fit_where_another_did_not(says):
    whole = Training(Mesh(8, 1, 1), 12 * GIB, compute=1.0, messages=0.1, accumulate=1, remat=Remat(()))
    split = Training(Mesh(1, 8, 1), 2 * GIB, compute=1.0, messages=0.2, accumulate=1, remat=Remat(()))
    found = tried([whole, split], Compiler(1.0, 6 * GIB, says=says), CHIP, compiles=2)
    assert [way for way, _ in found.plans] == [split] and [way for way, _ in found.misfits] == [whole]


@pytest.mark.parametrize("room, code", [(GIB, 0), (100_000 * GIB, 1)])
def test_the_command_compiles_its_choices_and_lists_them(monkeypatch, capsys, tmp_path, room, code):
    compiler, asked = Compiler(1.0, room), []

    def plan(experiment, topology, slices, keep):
        asked.append((experiment.mesh, experiment.accumulate, topology, slices))
        (way,) = (way for way in known if way.of(experiment) == experiment)
        return compiler(way)

    monkeypatch.setattr(search, "describe", lambda topology, slices: jax.devices())
    monkeypatch.setattr(search, "make_plan", plan)
    found = search.choices
    known = []
    monkeypatch.setattr(search, "choices", lambda *given: known.extend(found(*given)) or known)
    out = tmp_path / "plan.json"
    args = ["plan", "configs/emoji/prior.py", "--topology", "v5e:2x4", "--search", "3", "--out", str(out)]
    assert main([*args, "--stage.model.depth", "3"]) == code
    said = capsys.readouterr().out
    assert 0 < len(asked) <= 3 and {row[2:] for row in asked} == {("v5e:2x4", 1)}
    assert out.exists() == (code == 0)
    assert (" ms  MFU" in said) == (code == 0) and ("does not fit" in said) == (code == 1)


@pytest.fixture(scope="module")
def painter():
    """The demo's cascade, untrained, on one device."""
    found = {name: importlib.import_module(f"configs.emoji.{name}").demo() for name in STAGES}
    return DallE2.untrained(found, Mesh().build(jax.devices()[:1]))


def test_a_mesh_to_paint_on_divides_captions_and_devices_and_gathers_what_it_splits(painter):
    params = painter.params
    ways = painting_choices(params, 8 * 10**12, 4, "v5e:2x4", jax.devices(), 1)
    assert {(way.mesh.model, way.mesh.data) for way in ways} == {(2, 1), (2, 2), (2, 4), (4, 1), (4, 2), (8, 1)}
    assert {way.compute for way in ways} == {1e12 / CHIP.flops}
    by = {(way.mesh.model, way.mesh.data): way for way in ways}
    assert by[2, 1].messages == 0 < by[2, 2].messages < by[2, 4].messages
    assert by[2, 1].held > by[2, 2].held > by[2, 4].held
    large = {"vae": {"model": {"kernel": jax.ShapeDtypeStruct((2**20, 2**20), jnp.float32)}}}
    with pytest.raises(ValueError, match="holds its parameters on 8 chips of v5e:2x4; 4 captions"):
        painting_choices(large, 8 * 10**12, 4, "v5e:2x4", jax.devices(), 1)


def test_the_command_looks_for_a_mesh_to_paint_on(monkeypatch, capsys, painter):
    asked = []

    def plan(paint, params, captions, context, mesh, topology, slices, keep):
        asked.append(dict(mesh.shape))
        seconds = 1 + mesh.shape["model"] + 1 / mesh.shape["data"]
        flops = int(seconds * CHIP.flops * 8)
        return Plan(
            "painting", topology, slices, dict(mesh.shape), captions, 0, parameters=1, memory={"peak": GIB},
            usable=int(CHIP.usable), model_flops=flops, flops=flops, traffic=0, host=0, collectives=(), waits={},
            in_order=0.0, warnings=(), compile_seconds=0.0, compile_bytes=0, least={"vae": 1}, least_messages=0,
        )  # fmt: skip

    monkeypatch.setattr(planning, "plan_sampling", plan)
    monkeypatch.setattr("t2i_jax.training.plan.describe", lambda topology, slices: jax.devices())
    assert main(["plan", "configs/emoji:demo", "--sample", "8", "--topology", "v5e:2x4", "--search", "20"]) == 0
    rows = [row for row in capsys.readouterr().out.splitlines() if " ms  MFU" in row]
    assert len(rows) == len(asked) and "data 8 × model 1" in rows[0]
    assert {tuple(shape.values()) for shape in asked} >= {(8, 1, 1), (1, 8, 1), (1, 1, 8)}


def test_what_is_never_gathered_costs_its_sum_over_replicas_alone():
    own = 2.0**30
    alone = _messages(0.0, own, 8, 4, 1, 1, CHIP)
    assert alone == pytest.approx(2 * 2 * own * 3 / 4 / (2 * CHIP.link)) == _messages(0.0, own, 8, 4, 1, 16, CHIP)
    assert _messages(own, own, 8, 4, 1, 1, CHIP) == pytest.approx(alone + 3 * 2 * own * 7 / (2 * CHIP.link))
