"""What the reader counts is what the program was written to do."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from t2i_jax.parallel.hlo import SLICE, read
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.training.flops import count_flops

AXES = {"replica": 1, "data": 4, "model": 2}


def compiled(function, mesh, *args):
    placed = [jax.ShapeDtypeStruct(s, jnp.float32, sharding=NamedSharding(mesh, p)) for s, p in args]
    return jax.jit(function).lower(*placed).compile()


@pytest.fixture(scope="module")
def mesh():
    return Mesh(data=4, model=2).build()


def layers(x, kernels):
    return jax.lax.scan(lambda x, k: (jnp.tanh(x @ k), None), x, kernels)[0]


def test_a_loop_counts_as_often_as_it_turns(mesh):
    args = ((64, 32), P("data")), ((5, 32, 32), P(None, "data"))
    summary = read(compiled(layers, mesh, *args).as_text(), AXES)
    assert summary.flops == 5 * 2 * 64 * 32 * 32 / 4
    gathers = [c for c in summary.collectives if c.kind == "all-gather"]
    assert sum(c.times for c in gathers) == 5
    assert {(c.axes, c.group, c.bytes, c.wire) for c in gathers} == {(("data",), 4, 32 * 32 * 4, 32 * 32 * 3)}


def test_a_reduction_is_told_by_the_axis_it_goes_over(mesh):
    args = ((16, 64), P("data", "model")), ((64, 32), P("model"))
    (one,) = read(compiled(lambda a, b: a @ b, mesh, *args).as_text(), AXES).collectives
    assert (one.kind, one.axes, one.group, one.times) == ("all-reduce", ("model",), 2, 1)
    assert one.bytes == one.wire == 4 * 32 * 4


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_a_convolution_counts_the_places_that_meet(stride, padding):
    x, k = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 5))
    run = lambda x, k: jax.lax.conv_general_dilated(
        x, k, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    flops = read(jax.jit(run).lower(x, k).compile().as_text(), {"data": 1}).flops
    ones = jnp.ones((1, 8, 8, 1)), jnp.ones((3, 3, 1, 1))
    assert flops == 2 * float(run(*ones).sum()) * 2 * 3 * 5


def test_each_group_of_a_batch_meets_its_own_channels_alone():
    text = """ENTRY %main (lhs: f32[6,8,8], rhs: f32[10,8,3]) -> f32[3,10,6] {
  %lhs = f32[6,8,8]{2,1,0} parameter(0)
  %rhs = f32[10,8,3]{2,1,0} parameter(1)
  ROOT %out = f32[3,10,6]{2,1,0} convolution(%lhs, %rhs), window={size=3}, dim_labels=bf0_oi0->bf0, batch_group_count=2
}"""
    assert read(text, {"data": 1}).flops == 2 * (6 * 3) * 8 * (10 * 3)


def test_it_agrees_with_the_count_of_what_was_traced(mesh):
    gradient = jax.grad(lambda k, x: jnp.square(layers(x, k)).sum())
    args = ((5, 32, 32), P(None, "data")), ((64, 32), P("data"))
    traced = count_flops(gradient, jnp.zeros((5, 32, 32)), jnp.zeros((64, 32)))
    assert read(compiled(gradient, mesh, *args).as_text(), AXES).flops * 4 == traced


TPU = """
%all-reduce-scatter.1 (input: bf16[64,8]) -> bf16[16,8] {
  %input = bf16[64,8]{1,0} parameter(0)
  ROOT %all-reduce.1 = bf16[64,8]{1,0:T(8,128)(2,1)} all-reduce(%input), replica_groups={{0,1,2,3},{4,5,6,7}}
}

%begins (p.1: bf16[4,8]) -> (bf16[4,8], bf16[16,8]) {
  %p.1 = bf16[4,8]{1,0} parameter(0)
  %gathered.1 = bf16[16,8]{1,0:T(8,128)} all-gather(%p.1), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}
  ROOT %call.1 = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) custom-call(%gathered.1), custom_call_target="AsyncCollectiveStart"
}

%ends (p.2: bf16[4,8]) -> bf16[16,8] {
  %p.2 = bf16[4,8]{1,0} parameter(0)
  %gathered.2 = bf16[16,8]{1,0:T(8,128)} all-gather(%p.2), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}
  ROOT %call.2 = bf16[16,8]{1,0} custom-call(%p.2, %gathered.2), custom_call_target="AsyncCollectiveDone"
}

%async_collective_fusion.2 (p: bf16[4,8], q: bf16[2,4], r: bf16[4,8]) -> (bf16[16,8], bf16[2,8]) {
  %p = bf16[4,8]{1,0} parameter(0)
  %q = bf16[2,4]{1,0} parameter(1)
  %r = bf16[4,8]{1,0} parameter(2)
  %gathered = bf16[16,8]{1,0:T(8,128)} all-gather(%p), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}
  %convolution.1 = bf16[2,8]{1,0} convolution(%q, %r), dim_labels=bf_io->bf
  ROOT %t = (bf16[16,8]{1,0}, bf16[2,8]{1,0}) tuple(%gathered, %convolution.1)
}

%body (state: (s32[], bf16[64,8])) -> (s32[], bf16[64,8]) {
  %state = (s32[]{:T(128)}, bf16[64,8]{1,0}) parameter(0)
  %x = bf16[64,8]{1,0} get-tuple-element(%state), index=1
  %scattered = bf16[16,8]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
  %going = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) fusion(%x), kind=kCustom, calls=%begins
  %both = (bf16[16,8]{1,0}, bf16[2,8]{1,0}) fusion(%x), kind=kCustom, calls=%async_collective_fusion.2
  %came = bf16[16,8]{1,0} fusion(%x), kind=kCustom, calls=%ends
  ROOT %next = (s32[], bf16[64,8]) tuple(%x, %x)
}

%condition (state.1: (s32[], bf16[64,8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(23)
  %state.1 = (s32[]{:T(128)}, bf16[64,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state.1), index=0
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (a: (s32[], bf16[64,8])) -> (s32[], bf16[64,8]) {
  %a = (s32[], bf16[64,8]{1,0}) parameter(0)
  %first = bf16[16,8]{1,0} all-gather(%a), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}
  ROOT %while.1 = (s32[]{:T(128)}, bf16[64,8]{1,0}) while(%a), condition=%condition, body=%body
}
"""  # noqa: E501


def test_the_forms_of_a_tpus_program_are_understood():
    summary = read(TPU, {"replica": 2, "data": 4, "model": 1})
    assert summary.flops == 23 * 2 * 2 * 4 * 8
    found = {(c.kind, c.axes, c.group, c.bytes, c.times, c.waits) for c in summary.collectives}
    assert found == {
        ("reduce-scatter", ("data",), 4, 64 * 8 * 2, 23, True),
        ("all-gather", ("data",), 4, 16 * 8 * 2, 23, False),  # once, though it is written thrice
        ("all-gather", ("data",), 4, 16 * 8 * 2, 1, True),  # the loop's first, taken out of it
    }
    assert len(summary.collectives) == len(found)


SLICES = """
ENTRY %main (a: bf16[4,8]) -> bf16[16,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  %go = token[] after-all()
  %send.1 = (bf16[4,8]{1,0}, u32[]{:S(2)}, token[]) send(%a, %go), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="all-reduce.1_0",_xla_megascale_target="{1,2,3,4}x{0:7}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %sent.1 = token[] send-done(%send.1), channel_id=2
  %send.2 = (bf16[4,8]{1,0}, u32[]{:S(2)}, token[]) send(%a, %go), channel_id=4, is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="all-gather.2_0",_xla_megascale_target="{1,2,3,4}x{0:7}",_xla_megascale_transfer_type="ALL_GATHER"}
  %recv.2 = (bf16[16,8]{1,0}, u32[]{:S(2)}, token[]) recv(%go), channel_id=3, is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="all-gather.2_0",_xla_megascale_target="{1,2,3,4}x{0:7}",_xla_megascale_transfer_type="ALL_GATHER"}
  %came = (bf16[16,8]{1,0}, token[]) recv-done(%recv.2), channel_id=3
  ROOT %out = bf16[16,8]{1,0} get-tuple-element(%came), index=0
}
"""  # noqa: E501


def test_what_goes_between_slices_is_read_from_what_is_sent_to_the_network():
    found = read(SLICES, {"replica": 8, "data": 4, "model": 1}).collectives
    assert [(c.kind, c.axes, c.group, c.bytes, c.waits) for c in found] == [
        ("all-reduce", (SLICE,), 4, 4 * 8 * 2, False),
        ("all-gather", (SLICE,), 4, 16 * 8 * 2, False),
    ]


SPARSE = """
%carried (p: bf16[4,8]) -> bf16[16,8] {
  %p = bf16[4,8]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[16,8]{1,0} all-gather(%p), replica_groups=mesh['axis_0'=4] {'axis_0'}, dimensions={0}
}, execution_thread="sparsecore"

%wrapped (q: bf16[4,8]) -> bf16[16,8] {
  %q = bf16[4,8]{1,0} parameter(0)
  ROOT %call.1 = bf16[16,8]{1,0} call(%q), to_apply=%carried
}, execution_thread="sparsecore"

%awaited (r: bf16[4,8]) -> bf16[4,8] {
  %r = bf16[4,8]{1,0} parameter(0)
  ROOT %all-reduce.1 = bf16[4,8]{1,0} all-reduce(%r), replica_groups=mesh['axis_0'=4] {'axis_0'}
}

ENTRY %main (a: bf16[4,8]) -> bf16[4,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  %start = ((), (), (s32[8]{0:S(15)})) async-start(), async_execution_thread="sparsecore", calls=%wrapped
  %update = ((bf16[4,8]{1,0}), bf16[16,8]{1,0}, (s32[8]{0:S(15)})) async-update(%start, %a)
  %done = bf16[16,8]{1,0} async-done(%update)
  ROOT %call.2 = bf16[4,8]{1,0} call(%a), to_apply=%awaited
}
"""


def test_what_a_sparse_core_carries_is_hidden():
    found = {c.kind: (c.bytes, c.times, c.waits) for c in read(SPARSE, {"data": 4}).collectives}
    assert found == {"all-gather": (16 * 8 * 2, 1, False), "all-reduce": (4 * 8 * 2, 1, True)}


HOST = """
%sent (p: bf16[24,8,8], q: bf16[1,8,8]) -> bf16[24,8,8] {
  %p = bf16[24,8,8]{2,1,0:T(8,128)(2,1)S(5)} parameter(0)
  %q = bf16[1,8,8]{2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %dynamic-update-slice.1 = bf16[24,8,8]{2,1,0:T(8,128)(2,1)S(5)} dynamic-update-slice(%p, %q)
}

%fetched (r: bf16[24,8,8]) -> bf16[1,8,8] {
  %r = bf16[24,8,8]{2,1,0:T(8,128)(2,1)S(5)} parameter(0)
  ROOT %dynamic-slice.1 = bf16[1,8,8]{2,1,0:T(8,128)(2,1)} dynamic-slice(%r)
}

ENTRY %main (a: bf16[24,8,8], b: bf16[1,8,8]) -> bf16[4,8] {
  %a = bf16[24,8,8]{2,1,0:T(8,128)(2,1)S(5)} parameter(0)
  %b = bf16[1,8,8]{2,1,0:T(8,128)(2,1)} parameter(1)
  %start.1 = ((bf16[24,8,8]{2,1,0:T(8,128)(2,1)S(5)}), bf16[24,8,8]{2,1,0:T(8,128)(2,1)S(5)}, u32[]) async-start(%a, %b), calls=%sent
  %done.1 = bf16[24,8,8]{2,1,0:T(8,128)(2,1)S(5)} async-done(%start.1)
  %start.2 = ((bf16[24,8,8]{2,1,0:T(8,128)(2,1)S(5)}), bf16[1,8,8]{2,1,0:T(8,128)(2,1)}, u32[]) async-start(%done.1), calls=%fetched
  %done.2 = bf16[1,8,8]{2,1,0:T(8,128)(2,1)} async-done(%start.2)
  %copy-start.1 = (bf16[4,8]{1,0:T(8,128)(2,1)}, bf16[4,8]{1,0:T(8,128)(2,1)S(5)}, u32[]{:S(2)}) copy-start(%done.2)
  ROOT %copy-done.1 = bf16[4,8]{1,0:T(8,128)(2,1)} copy-done(%copy-start.1)
}
"""  # noqa: E501


def test_what_goes_to_the_host_and_comes_back_is_counted_apart_from_the_devices_own_memory():
    summary = read(HOST, {"data": 1})
    assert summary.host == summary.traffic == (8 * 8 + 8 * 8 + 4 * 8) * 2


SLICED = """
%half (p: bf16[64,8]) -> bf16[8,8] {
  %p = bf16[64,8]{1,0} parameter(0)
  %q = bf16[8,8]{1,0} slice(%p), slice={[0:8], [0:8]}
  ROOT %r = bf16[8,8]{1,0:S(1)} negate(%q)
}

ENTRY %main (a: bf16[64,8]) -> bf16[8,8] {
  %a = bf16[64,8]{1,0} parameter(0)
  %near = bf16[8,8]{1,0:S(1)} slice(%a), slice={[8:16], [0:8]}
  %far = bf16[8,8]{1,0} slice(%a), slice={[8:16], [0:8]}
  ROOT %b = bf16[8,8]{1,0:S(1)} fusion(%a), kind=kLoop, calls=%half
}
"""


def test_of_what_is_sliced_the_slice_alone_is_read():
    assert read(SLICED, {"data": 1}).traffic == (1 + 2 + 1) * 8 * 8 * 2


@pytest.mark.parametrize("groups, axes", [
    ("mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", ("data",)),
    ("mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_0'}", ("data",)),
    ("mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_1'}", ("replica",)),
    ("mesh['axis_0'=8] {'axis_0'}", ("replica", "data")),
    ("[2,4]<=[8]", ("data",)),
    ("[4,2]<=[2,4]T(1,0)", ("replica",)),
    ("{{0,4},{1,5},{2,6},{3,7}}", ("replica",)),
])  # fmt: skip
def test_every_way_to_write_a_group_names_its_axes(groups, axes):
    text = f"""ENTRY %main (a: f32[8]) -> f32[8] {{
  %a = f32[8]{{0}} parameter(0)
  ROOT %sum = f32[8]{{0}} all-reduce(%a), channel_id=1, replica_groups={groups}, to_apply=%add
}}"""
    (one,) = read(text, {"replica": 2, "data": 4, "model": 1}).collectives
    assert one.axes == axes


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        read("hello", {"data": 1})
