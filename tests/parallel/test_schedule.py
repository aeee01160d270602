"""A program's time is that of its operations in their order, and of the messages that they do not cover.

The chip of these tests does one FLOP a second and takes a second for a byte, of a link in both directions, of its
memory, of the network and to the host; what the programs work on lies on the chip ("S(1)") unless memory is asked of.
"""

import pytest

from t2i_jax.parallel.chips import Chip
from t2i_jax.parallel.schedule import play

CHIP = Chip("x", flops=1.0, usable=0.0, bandwidth=1.0, link=0.5, network=1.0, host=1.0)
MESH = {"replica": 2, "data": 4, "model": 1}
HERE = "{1,0:S(1)}"
DATA, REPLICA = "{{0,1},{1,2},{2,3},{3,0}}", "{{0,4},{4,0}}"
PARTS = "replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}"
GATHERED = f"bf16[8,4]{HERE} all-gather(%p), {PARTS}"
"""Of 64 bytes, of which three quarters come over the links."""


def work(n=1):
    """64 FLOPs."""
    return f"%work{n} = bf16[2,4]{HERE} dot(%a, %k), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}"


def begin(n, pairs):
    """Of a message of 16 bytes."""
    return f"%go{n} = (bf16[2,4]{HERE}, bf16[2,4]{HERE}) collective-permute-start(%a), source_target_pairs={pairs}"


def end(n):
    return f"%came{n} = bf16[2,4]{HERE} collective-permute-done(%go{n})"


def program(*lines, before=""):
    body = "\n".join(f"  {line}" for line in lines)
    return f"""{before}
ENTRY %main (a: bf16[2,4], k: bf16[4,4]) -> bf16[2,4] {{
  %a = bf16[2,4]{HERE} parameter(0)
  %k = bf16[4,4]{HERE} parameter(1)
{body}
  ROOT %out = bf16[2,4]{HERE} copy(%a)
}}
"""


def timed(*lines, before="", **more):
    played = play(program(*lines, before=before), MESH, CHIP, **more)
    return played.seconds, [(one.axes, late) for one, late in played.waits]


def test_an_operation_takes_the_longer_of_its_products_and_its_traffic():
    assert timed(work()) == (64.0, [])
    far = "%y = bf16[2,4]{1,0} dot(%a, %k), lhs_contracting_dims={1}, rhs_contracting_dims={0}"
    assert timed(far) == (64.0, [])
    large = "%z = bf16[100,4]{1,0} broadcast(%a), dimensions={}"
    assert timed(work(), large) == (64.0 + 800, [])


def test_a_message_is_waited_for_as_far_as_no_work_covers_it():
    assert timed(begin(1, DATA), work(), end(1)) == (64.0, [])
    assert timed(begin(1, DATA), end(1), work()) == (80.0, [(("data",), 16.0)])


def test_a_link_carries_one_message_at_a_time_and_each_axis_has_its_own():
    both = lambda axis: [*(begin(n, axis[n]) for n in (0, 1)), end(0), end(1)]
    assert timed(*both([DATA, DATA])) == (32.0, [(("data",), 16.0), (("data",), 16.0)])
    assert timed(*both([DATA, REPLICA])) == (16.0, [(("data",), 16.0)])


def test_what_runs_alone_is_waited_for_and_for_its_links_too():
    alone = f"%sum = bf16[2,4]{HERE} all-gather(%a), {PARTS}"
    assert timed(alone, work()) == (64.0 + 12, [(("data",), 12.0)])
    assert timed(begin(1, DATA), alone, end(1)) == (28.0, [(("data",), 28.0)])


def test_what_a_device_sends_to_itself_takes_no_time():
    alone = f"%sum = bf16[2,4]{HERE} all-gather(%a), replica_groups={{{{0}},{{1}},{{2}},{{3}}}}, dimensions={{0}}"
    assert timed(alone, work()) == (64.0, [])


def test_a_loop_takes_as_long_as_its_turns():
    body = f"""
%body (a: bf16[2,4]) -> bf16[2,4] {{
  %a = bf16[2,4]{HERE} parameter(0)
  %sum = bf16[2,4]{HERE} all-gather(%a), {PARTS}
  ROOT %b = bf16[2,4]{HERE} add(%sum, %sum)
}}
"""
    turns = 'backend_config={"known_trip_count":{"n":"5"}}'
    loop = f"%l = bf16[2,4]{HERE} while(%a), condition=%c, body=%body, {turns}"
    assert timed(loop, before=body) == (60.0, [(("data",), 60.0)])


@pytest.mark.parametrize(
    "given", ["branch_computations={%way1, %way2}", "true_computation=%way2, false_computation=%way1"]
)
def test_a_choice_takes_as_long_as_its_longest_way(given):
    ways = "".join(
        f"""
%way{n} (a: bf16[2,4]) -> bf16[2,4] {{
  %a = bf16[2,4]{HERE} parameter(0)
  ROOT %b = bf16[{n},4]{{1,0}} broadcast(%a), dimensions={{}}
}}
"""
        for n in (1, 2)
    )
    choice = f"%c = bf16[2,4]{HERE} conditional(%a, %a, %a), {given}"
    assert timed(choice, before=ways) == (16.0, [])


def test_a_message_that_others_carry_along_begins_and_ends_in_fusions():
    apart = f"""
%begins (p: bf16[2,4]) -> bf16[8,4] {{
  %p = bf16[2,4]{HERE} parameter(0)
  %gather = {GATHERED}
  ROOT %start = bf16[8,4]{HERE} custom-call(%gather), custom_call_target="AsyncCollectiveStart"
}}

%async_collective_fusion.1 (p: bf16[2,4], k: bf16[4,4]) -> bf16[2,4] {{
  %p = bf16[2,4]{HERE} parameter(0)
  %k = bf16[4,4]{HERE} parameter(1)
  %gather = {GATHERED}
  ROOT %y = bf16[2,4]{HERE} dot(%p, %k), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
}}

%ends (p: bf16[2,4]) -> bf16[8,4] {{
  %p = bf16[2,4]{HERE} parameter(0)
  %gather = {GATHERED}
  ROOT %done = bf16[8,4]{HERE} custom-call(%gather), custom_call_target="AsyncCollectiveDone"
}}
"""
    starts = f"%async-collective-start.7 = bf16[8,4]{HERE} fusion(%a), kind=kCustom, calls=%begins"
    carry = f"%w = bf16[2,4]{HERE} fusion(%a, %k), kind=kOutput, calls=%async_collective_fusion.1"
    done = f"%async-collective-done.7 = bf16[8,4]{HERE} fusion(%async-collective-start.7), kind=kCustom, calls=%ends"
    assert timed(starts, carry, done, before=apart) == (64.0, [])
    assert timed(starts, done, carry, before=apart) == (64.0 + 48, [(("data",), 48.0)])


@pytest.mark.parametrize("calls", ["call(%q), to_apply=%carried", "custom-call(%q), called_computations={%carried}"])
def test_a_message_of_a_sparse_core_ends_where_it_is_done(calls):
    apart = f"""
%carried (p: bf16[2,4]) -> bf16[8,4] {{
  %p = bf16[2,4]{HERE} parameter(0)
  ROOT %gather = {GATHERED}
}}

%wrapped (q: bf16[2,4]) -> bf16[8,4] {{
  %q = bf16[2,4]{HERE} parameter(0)
  ROOT %call.1 = bf16[8,4]{HERE} {calls}
}}
"""
    starts = ["%start = (()) async-start(), calls=%wrapped", "%update = (()) async-update(%start, %a)"]
    done = f"%done = bf16[8,4]{HERE} async-done(%update)"
    assert timed(*starts, work(), done, before=apart) == (64.0, [])
    assert timed(*starts, done, work(), before=apart) == (64.0 + 48, [(("data",), 48.0)])


def test_what_goes_over_the_network_ends_where_its_answer_comes():
    given = '_xla_megascale_transfer_type="ALL_REDUCE",_xla_megascale_target="{0,1}x{0:3}"'
    given += ',_xla_host_transfer_rendezvous="r"'
    send = f"%send = (bf16[2,4]{HERE}, u32[]{{:S(2)}}, token[]) send(%a), frontend_attributes={{{given}}}"
    recv = f"%recv = (bf16[2,4]{HERE}, u32[]{{:S(2)}}, token[]) recv(%a), frontend_attributes={{{given}}}"
    ends = [f"%came = (bf16[2,4]{HERE}, token[]) recv-done(%recv)", "%sent = token[] send-done(%send)"]
    assert timed(send, recv, work(), *ends) == (64.0, [])
    assert timed(send, work(), work(2), recv, *ends)[0] == 128.0
    assert timed(send, recv, *ends, work()) == (64.0 + 16, [(("slice",), 16.0)])


@pytest.mark.parametrize("place, seconds", [("{1,0}", 16.0), ("{1,0:S(5)}", 16.0), (HERE, 0.0)])
def test_a_copy_goes_on_beside_the_work(place, seconds):
    starts = f"%go = (bf16[2,4]{HERE}, bf16[2,4]{place}, u32[]{{:S(2)}}) copy-start(%a)"
    done = f"%here = bf16[2,4]{HERE} copy-done(%go)"
    assert timed(starts, work(), done) == (64.0, [])
    assert timed(starts, done, work()) == (64.0 + seconds, [])


def test_a_kernel_takes_as_long_as_its_hidden_products():
    kernel = f'%flash = bf16[2,4]{HERE} custom-call(%a), custom_call_target="tpu_custom_call"'
    assert timed(kernel, kernels=500.0) == (500.0, [])
