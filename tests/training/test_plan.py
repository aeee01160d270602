"""What a plan says of the parts that need no compiler equals what is really there."""

import dataclasses
import importlib
import json
import subprocess
import sys
from importlib.util import find_spec

import jax
import numpy as np
import pytest

from t2i_jax.models.attention import splash
from t2i_jax.models.remat import Remat, whole
from t2i_jax.parallel.chips import CHIPS
from t2i_jax.parallel.hlo import SLICE, Collective, Summary
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.parallel.schedule import Played
from t2i_jax.training.flops import count_flops, count_jaxpr, count_kernels
from t2i_jax.training.inputs import batch_shapes
from t2i_jax.training.minimum import held
from t2i_jax.training.plan import Plan
from t2i_jax.training.plan_warnings import of_messages, of_shards, of_waits
from t2i_jax.training.program import build

GATHER = Collective("all-gather", ("data",), 16, 2**30, 10, False, "blocks")


def experiment(name="prior"):
    return importlib.import_module(f"configs.emoji.{name}").config()


@pytest.mark.parametrize("name", ["vae", "prior"])
def test_the_bytes_held_are_the_bytes_of_the_real_shards(name):
    one = experiment(name)
    one = dataclasses.replace(one, data=dataclasses.replace(one.data, batch=8))
    mesh, key, batch = Mesh(data=4, model=2).build(), jax.random.key(0), batch_shapes(one.data)
    frozen = jax.eval_shape(one.stage.expects, key, batch)
    program = build(one, mesh, frozen, batch, {})
    state = program.init(key)
    real = lambda tree: sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))
    found = held(program)
    assert (found["params"], found["ema"], found["moments"]) == tuple(
        map(real, (state.params, state.ema, state.opt_state))
    )
    placed = program.place_frozen(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), frozen))
    assert found["frozen"] == real(placed)


def test_nothing_is_computed_twice_in_the_whole_of_an_experiment():
    one = experiment()
    lazy = dataclasses.replace(one.stage, model=dataclasses.replace(one.stage.model, remat=Remat(())))
    lazy = dataclasses.replace(one, stage=lazy)
    assert whole(lazy) == one and whole(one) is one
    count = lambda e: build(e, Mesh().build(), jax.eval_shape(e.stage.expects, jax.random.key(0), batch_shapes(e.data)),
                            batch_shapes(e.data), {}).flops  # fmt: skip
    assert count(lazy) > count(one) == count(whole(lazy))


def test_a_kernels_products_are_counted_for_every_block_and_device():
    shape = jax.ShapeDtypeStruct((4, 256, 2, 64), np.float32)
    run = lambda q, k, v: splash(q, k, v, False, None, interpret=True)
    true = 2 * 2 * 4 * 2 * 256 * 256 * 64
    assert count_flops(run, shape, shape, shape) == true
    with jax.set_mesh(Mesh(replica=2, data=2, model=2).build()):
        jaxpr = jax.make_jaxpr(jax.jit(lambda q, k, v: run(q, k, v) @ np.zeros((64, 8), np.float32)))(
            shape, shape, shape
        )
    assert count_kernels(jaxpr.jaxpr) == true < count_jaxpr(jaxpr.jaxpr)


def plan(**changes):
    values = dict(
        stage="decoder", topology="v5e:16x16", slices=1, mesh={"replica": 16, "data": 16, "model": 1}, batch=2048,
        steps=100, parameters=10, memory={"params": 1, "peak": 2**30}, usable=2**34, model_flops=256 * 10**14,
        flops=256 * 197 * 10**12, traffic=10**9, host=0, collectives=(), warnings=(), compile_seconds=1.0,
        compile_bytes=2**30, least={"params": 2**29}, least_messages=2**31, waits={"ICI": 0.0, "DCN": 0.0},
        in_order=0.0,
    )  # fmt: skip
    return Plan(**values | changes)


def test_the_roofline_hides_what_work_covers_and_adds_what_waits():
    assert GATHER.wire == 2**30 * 15 / 16
    assert plan().seconds()["at best"] == pytest.approx(1.0)
    alone = 10 * GATHER.wire / (2 * CHIPS["v5e"].link)
    assert plan(collectives=(GATHER,)).seconds()["at best"] == pytest.approx(1.0)
    waiting = plan(collectives=(GATHER,), waits={"ICI": alone, "DCN": 0.0}, in_order=9.0).seconds()
    assert waiting["ICI"] == pytest.approx(alone) and waiting["at best"] == pytest.approx(1.0 + alone)
    often = dataclasses.replace(GATHER, times=200)
    many = plan(collectives=(often,), waits={"ICI": 0.5, "DCN": 0.0}, in_order=99.0).seconds()
    assert many["at best"] == pytest.approx(20 * alone)  # what is waited for is a part of what the links take
    beside = plan(collectives=(GATHER,), waits={"ICI": alone, "DCN": 0.0}, in_order=1.01).seconds()
    assert beside["at best"] == beside["in order"] == 1.01
    assert plan().mfu() == pytest.approx(1e14 / 197e12)


def test_a_step_in_order_is_never_shorter_than_the_roofline():
    assert plan(in_order=3.0).seconds()["in order"] == 3.0 and plan(in_order=0.5).seconds()["in order"] == 1.0
    found = plan(in_order=2.0)
    assert found.mfu("in order") == pytest.approx(found.mfu() / 2)
    known = found.json()
    assert known["in_order"]["hours"] == pytest.approx(2 * known["at_best"]["hours"])
    text = found.table()
    assert "at best      MFU 51%, 2,048 images/s" in text and "in order     MFU 25%, 1,024 images/s" in text


def test_a_step_lasts_as_long_as_the_way_to_the_host_and_back():
    seconds = plan(host=int(3 * CHIPS["v5e"].host)).seconds()
    assert seconds["host"] == pytest.approx(3.0) == seconds["at best"]
    assert plan(host=int(0.5 * CHIPS["v5e"].host)).seconds()["at best"] == pytest.approx(1.0)


def test_figures_are_compared_with_the_least():
    one = plan(collectives=(GATHER,), memory={"params": 1, "peak": 2**30}, least={"params": 2**29, "kept": 2**28},
               least_messages=5 * 2**30)  # fmt: skip
    assert one.ratios["memory"] == pytest.approx(4 / 3) and one.ratios["messages"] == pytest.approx(2.0)
    assert one.ratios["flops"] == pytest.approx(one.flops / one.model_flops)
    alone = plan(mesh={"replica": 256, "data": 1, "model": 1}, collectives=())
    assert alone.ratios["messages"] is None and "least over data" not in alone.table()
    between = dataclasses.replace(GATHER, axes=("replica",))
    assert plan(collectives=(between,)).ratios["messages"] == 0


def test_a_small_models_figures_keep_their_digits():
    gather = dataclasses.replace(GATHER, bytes=1234567, times=1)
    text = plan(flops=256 * 197 * 10**7, traffic=0, collectives=(gather,)).table()
    assert "compute 0.01 ms" in text and "1 a step, 0.00123 GB" in text


def test_the_picture_shows_every_part_of_memory_and_of_time():
    memory, time = plan(collectives=(GATHER,), waits={"ICI": 0.1, "DCN": 0.0}).panels()
    assert sum(memory.bars["as compiled"].values()) * 2**30 == 1 and memory.limit == 16
    assert set(time.bars) == {"compute", "memory", "ICI", "waits", "at best", "in order"}


def test_what_goes_between_slices_goes_over_the_network():
    between = dataclasses.replace(GATHER, kind="all-reduce", axes=(SLICE,))
    within = dataclasses.replace(between, axes=("replica",))
    seconds = plan(slices=4, collectives=(between, within)).seconds()
    assert seconds["DCN"] == pytest.approx(10 * between.wire / CHIPS["v5e"].network)
    assert seconds["ICI"] == pytest.approx(10 * within.wire / (2 * CHIPS["v5e"].link))


def test_a_plan_that_does_not_fit_says_so():
    large = plan(memory={"params": 1, "peak": 2**35})
    assert not large.fits and "DOES NOT FIT" in large.table() and large.json()["fits"] is False
    assert plan().fits and "MFU 51%" in plan().table()


def split(*shape, spec):
    where = jax.NamedSharding(Mesh(data=8).build(), jax.P(*spec))
    return jax.ShapeDtypeStruct(shape, np.float32, sharding=where)


def test_a_whole_gradients_sum_is_a_warning_that_names_its_operation_and_leaf():
    leaves = {"blocks": {"kernel": split(4, 2**14, 2**14, spec=(None, "data"))}}
    gradient = dataclasses.replace(GATHER, kind="all-reduce", source="transpose(jvp(blocks))")
    (text,) = of_messages(Summary(collectives=[gradient, GATHER]), leaves)
    assert "a gradient" in text and "transpose(jvp(blocks))" in text and "blocks/kernel" in text and "1024 MiB" in text
    forward = dataclasses.replace(gradient, source="jvp()/div")
    (text,) = of_messages(Summary(collectives=[forward]), leaves)
    assert "a gradient" not in text and "jvp()/div" in text
    (text,) = of_messages(Summary(collectives=[dataclasses.replace(forward, source="")]), {})
    assert "names no operation" in text


def test_a_long_wait_for_a_message_beside_other_work_is_a_warning():
    alone = dataclasses.replace(GATHER, waits=True)
    (text,) = of_waits(Played(2.0, [(GATHER, 0.5), (alone, 0.5), (GATHER, 0.01)]))
    assert "500 of 2000 ms a chip waits for all-gather over data of 1024 MiB" in text


def test_a_shard_narrower_than_a_tile_is_a_warning_that_names_its_leaf():
    leaves = {"wide": split(64, 1024, spec=(None, "data")), "narrow": split(64, 512, spec=(None, "data")),
              "flat": split(32, 512, spec=("data", None)), "whole": split(4, 16, spec=())}  # fmt: skip
    assert [text.split()[2] for text in of_shards(leaves)] == ["flat", "narrow"]


@pytest.mark.skipif(not find_spec("libtpu"), reason="the TPU compiler is not installed (extra plan)")
def test_the_tpu_compiler_agrees_with_what_is_counted_here(tmp_path):
    """A small prior for eight chips: sizes, products and gathers are those that the shapes ask for.

    With a context that fills the attention kernel's lanes: shorter rows are padded, and the products of that counted.
    """
    out = tmp_path / "plan.json"
    options = ["--topology", "v5e:2x4", "--out", str(out), "--stage.model.dtype", "bfloat16", "--data.batch", "64"]
    for where in ("--data.context", "--stage.model.context", "--stage.clip.text.context"):
        options += [where, "124"]  # with the two embeddings, the time and the query: 128
    command = [sys.executable, "-m", "t2i_jax.cli", "plan", "configs/emoji/prior.py", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert out.with_suffix(".png").exists()
    one = experiment()
    stage = dataclasses.replace(one.stage, model=one.stage.model.clone(context=124, parent=None))
    shapes = batch_shapes(dataclasses.replace(one.data, context=124))
    params = jax.eval_shape(stage.init, jax.random.key(0), shapes)
    assert found["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found["fits"] and found["chips"] == 8 and 0 < found["in_order"]["mfu"] <= found["at_best"]["mfu"] < 1
    assert 0.9 < found["flops"] / found["model_flops"] < 1.1
    peak = found["memory"].pop("peak")
    assert sum(found["memory"].values()) == pytest.approx(peak, abs=2**21)  # small leaves are padded to tiles
    assert any(row["kind"] == "all-gather" and row["axes"] == "data" for row in found["collectives"])


@pytest.mark.skipif(not find_spec("libtpu"), reason="the TPU compiler is not installed (extra plan)")
def test_what_a_plan_asks_of_the_compiler_changes_nothing_that_it_reads():
    program = """
import jax
from t2i_jax.parallel.hlo import read
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.parallel.options import PLANNING, compiler_options
from t2i_jax.parallel.topology import describe
from t2i_jax.training.compiled import compiled

mesh = Mesh(data=4).build(describe("v5e:2x2", 1))
shape = lambda *sizes, spec: jax.ShapeDtypeStruct(sizes, "bfloat16", sharding=jax.NamedSharding(mesh, jax.P(*spec)))
w, x = shape(4, 2048, 2048, spec=(None, "data")), shape(8192, 2048, spec=("data",))
loss = lambda w, x: jax.lax.scan(lambda x, w: (jax.nn.gelu(x @ w), None), x, w)[0].sum()
step = jax.jit(jax.grad(loss), compiler_options=compiler_options(mesh), out_shardings=w.sharding)
mine, planned = (compiled(step, (w, x), "", options=asked) for asked in ({}, PLANNING))
found = read(mine.text, dict(mesh.shape))
assert found == read(planned.text, dict(mesh.shape)) and {one.waits for one in found.collectives} == {True, False}
assert mine.peak - mine.code == planned.peak - planned.code
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.skipif(not find_spec("libtpu"), reason="the TPU compiler is not installed (extra plan)")
def test_what_does_not_fit_says_how_much_it_would_need():
    program = """
import jax, jax.numpy as jnp
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.parallel.topology import describe
from t2i_jax.training.plan import DoesNotFit, _compile

mesh = Mesh(data=4).build(describe("v5e:2x2", 1))
x = jax.ShapeDtypeStruct((100_000, 128), "float32", sharding=jax.NamedSharding(mesh, jax.P()))
try:
    _compile(jax.jit(lambda x: jnp.sort(x @ x.T).sum()), (x,), "", None, {"batch": 2**30}, "Take less")
except DoesNotFit as error:
    assert 37 * 2**30 < error.needed < 200 * 2**30, error.needed  # the product takes 37.3 GiB
    assert "batch 1.00. Take less" in str(error)
else:
    raise AssertionError("it fits")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
