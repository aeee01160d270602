"""What a training would need and cost on TPUs, told by the compiler that would build it there.

    plan = make_plan(experiment, "v5e:16x16", slices=1)
    print(plan.table())
    plan_sampling(model.painter, model.params, 64, model.context, mesh, "v5e:2x4")      # of DallE2.untrained

The very step of the training, or all that a batch of captions goes through, is compiled for the topology; memory,
messages and products are read from the result. Times are estimates over the chip's data sheet (``parallel/chips.py``)
with the assumptions that ``ASSUMPTIONS`` lists: a roofline, which no step beats, and the sum of the operations in their
order, which is nearer to what one takes. A scan counts as often as it turns.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from t2i_jax.models.remat import whole
from t2i_jax.parallel.chips import CHIPS, Chip
from t2i_jax.parallel.hlo import Collective, Summary, read
from t2i_jax.parallel.mesh import Mesh, check_batch, split_batch
from t2i_jax.parallel.options import PLANNING, compiler_options, failures_named
from t2i_jax.parallel.schedule import KERNEL, Played, carrier, play, seconds_of
from t2i_jax.parallel.topology import describe
from t2i_jax.training.bars import Panel
from t2i_jax.training.compiled import Compiled, compiled
from t2i_jax.training.experiment import Experiment
from t2i_jax.training.flops import count_jaxpr, count_kernels
from t2i_jax.training.inputs import batch_shapes
from t2i_jax.training.minimum import held, idle, least_memory, least_messages, shard_bytes
from t2i_jax.training.plan_warnings import of_memory, of_messages, of_shards, of_waits
from t2i_jax.training.program import build
from t2i_jax.types import Params

ASSUMPTIONS = (
    "matrix products run at the chip's peak, everything else in the shadow of memory traffic",
    "memory traffic: operands and results of every operation that is not fused into another, each once",
    "messages by rings along one dimension of the torus, both ways at once",
    "a message is waited for as far as the work between its begin and its end, operation by operation, is shorter",
    "what waits in the host's memory goes there and then comes back, hidden as far as the rest is longer",
    "in order: each operation takes the longer of its products and its traffic, and then comes the next",
    "the input pipeline keeps up; no previews, evaluations or saves",
)


_REMEDY = "Split more (--mesh.data), keep less (--stage.model.remat.keep), or take smaller micro-batches (--accumulate)"


@dataclass(frozen=True)
class Plan:
    """One training step, or one batch of pictures, on one kind of chip. Bytes are of one chip; FLOPs are of one chip
    unless said."""

    stage: str
    topology: str
    slices: int
    mesh: dict[str, int]
    batch: int
    steps: int
    """Of the whole training; 0 where pictures are painted."""
    parameters: int
    memory: dict[str, int]
    """Bytes by part: "params", "ema", "moments", "frozen", "batch" (or the stages), then "temporaries", "code" and
    "peak"."""
    usable: int
    """Bytes that a program may use."""
    least: dict[str, int]
    """Bytes that any program needs (``minimum.least_memory``), by part."""
    least_messages: int
    """Bytes of fully sharded data parallelism's messages over ``data`` in a step."""
    model_flops: int
    """Of the whole step on all chips, nothing recomputed."""
    flops: int
    """Of the whole step on all chips, as compiled."""
    traffic: int
    """Bytes to and from a chip's memory in a step."""
    host: int
    """Bytes to the host's memory and back in a step."""
    collectives: tuple[Collective, ...]
    waits: dict[str, float]
    """Seconds of a step for which a chip waits for messages, by what carries them: "ICI", "DCN"."""
    in_order: float
    """Seconds of a step, operation by operation (``parallel/schedule.py``)."""
    warnings: tuple[str, ...]
    compile_seconds: float
    compile_bytes: int
    """Largest memory of the process that compiled."""

    @property
    def chips(self) -> int:
        return math.prod(self.mesh.values())

    @property
    def chip(self) -> Chip:
        return CHIPS[self.topology.split(":")[0]]

    @property
    def fits(self) -> bool:
        return self.memory["peak"] <= self.usable

    def seconds(self) -> dict[str, float]:
        """What each part of a step would take alone; "waits", messages that nothing covers; "at best", the roofline
        of all; "in order", the sum of the operations."""
        chip = self.chip
        compute = self.flops / self.chips / chip.flops
        memory, host = self.traffic / chip.bandwidth, self.host / chip.host
        links = dict.fromkeys(("ICI", "DCN"), 0.0)
        for one in self.collectives:
            links[carrier(one)] += one.times * seconds_of(one, chip)
        waits = sum(self.waits.values())
        covering = max(compute, memory, host, *(links[name] - self.waits.get(name, 0.0) for name in links))
        # Copies between memories go on while a chip waits for messages, so the operations in order may take less.
        step = max(compute, memory, host, *links.values(), min(covering + waits, self.in_order))
        parts = {"compute": compute, "memory": memory, **links, "host": host, "waits": waits}
        return parts | {"at best": step, "in order": max(self.in_order, step)}

    def mfu(self, which: str = "at best") -> float:
        """Model FLOPs that a step of this length ("at best", "in order") does, as share of the peak."""
        return self.model_flops / self.chips / self.chip.flops / self.seconds()[which]

    @property
    def ratios(self) -> dict[str, float | None]:
        """Memory over the least, FLOPs over the model's, messages over ``data`` over the least; None: there are none.

        A sum of which every chip keeps all counts as a scatter and a gather.
        """
        sent = sum(one.times * one.wire for one in self.collectives if "data" in one.axes)
        ways = self.mesh["data"]
        least = self.least_messages * (ways - 1) / ways
        return {
            "memory": self.memory["peak"] / sum(self.least.values()),
            "flops": self.flops / self.model_flops,
            "messages": sent / least if least else None,
        }

    def panels(self) -> list[Panel]:
        """Memory and time by part, to be drawn."""
        gib, seconds = 2**30, self.seconds()
        memory = {name: size / gib for name, size in self.memory.items() if name != "peak"}
        least = {name: size / gib for name, size in self.least.items()}
        times = {name: {name: 1e3 * value} for name, value in seconds.items() if value}
        return [
            Panel("memory a chip", "GiB", {"as compiled": memory, "the least": least}, self.usable / gib),
            Panel("a step, estimated: each part alone, and all together", "ms", times),
        ]

    def messages(self) -> list[tuple[str, str, int, int, int, bool]]:
        """Kind, axes, how many, their bytes and bytes on the wire in a step, whether they wait; the largest first."""
        groups: dict[tuple, list[int]] = defaultdict(lambda: [0, 0, 0])
        for one in self.collectives:
            row = groups[one.kind, " × ".join(one.axes), one.waits]
            row[0] += one.times
            row[1] += one.times * one.bytes
            row[2] += round(one.times * one.wire)
        rows = [(kind, axes, *numbers, waits) for (kind, axes, waits), numbers in groups.items()]
        return sorted(rows, key=lambda row: -row[4])

    def json(self) -> dict[str, Any]:
        """Everything, for a file."""
        seconds = self.seconds()
        names = ("kind", "axes", "count", "bytes", "wire_bytes", "waits")
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "collectives"}
        return plain | {
            "chips": self.chips, "fits": self.fits, "seconds": seconds, "ratios": self.ratios,
            **{
                which.replace(" ", "_"): {
                    "mfu": self.mfu(which), "images_per_second": self.batch / seconds[which],
                    "hours": self.steps * seconds[which] / 3600,
                    "chip_hours": self.chips * self.steps * seconds[which] / 3600,
                }
                for which in ("at best", "in order")
            },
            "collectives": [dict(zip(names, row)) for row in self.messages()], "assumptions": ASSUMPTIONS,
        }  # fmt: skip

    def table(self) -> str:
        """The plan as lines of text."""
        gib, seconds = 2**30, self.seconds()
        mesh = " × ".join(f"{axis} {size}" for axis, size in self.mesh.items())
        slices = f"{self.slices} slices of " if self.slices > 1 else ""
        parts = ", ".join(f"{name} {size / gib:.2f}" for name, size in self.memory.items() if name != "peak")
        verdict = "fits" if self.fits else "DOES NOT FIT"
        ratios, gb = self.ratios, lambda size: f"{_number(size / 1e9)} GB"
        lines = [
            f"{self.stage} on {slices}{self.topology} ({self.chips} chips), mesh {mesh}, batch {self.batch}",
            f"parameters   {self.parameters / 1e6:,.0f} million",
            f"memory       {self.memory['peak'] / gib:.2f} of {self.usable / gib:.2f} GiB a chip: {verdict}",
            f"             {parts}",
            f"             {ratios['memory']:.2f} of the least, {sum(self.least.values()) / gib:.2f} GiB",
            f"FLOPs        {self.flops:.3e} a step as compiled, {ratios['flops']:.2f} of the model's",
            *(
                f"messages     {kind} over {axes}: {count} a step, {gb(size)}, {gb(wire)} on the wire"
                f"{', nothing hides them' if waits else ''}"
                for kind, axes, count, size, wire, waits in self.messages()
            ),
            *([f"             {ratios['messages']:.2f} of the least over data"] if ratios["messages"] else []),
            "estimate     " + ", ".join(f"{name} {_number(1e3 * value)} ms" for name, value in seconds.items()),
            f"at best      {self._course('at best')}",
            f"in order     {self._course('in order')}",
            *(f"assumed      {text}" for text in ASSUMPTIONS),
            *(f"warning      {text}" for text in self.warnings),
            f"compiled in {self.compile_seconds:.0f} s with {self.compile_bytes / gib:.1f} GiB",
        ]
        return "\n".join(lines)


    def _course(self, which: str) -> str:
        seconds = self.seconds()[which]
        hours = self.steps * seconds / 3600
        course = f", {self.steps:,} steps in {_number(hours)} h = {_number(hours * self.chips)} chip-hours"
        return f"MFU {self.mfu(which):.0%}, {_number(self.batch / seconds)} images/s" + (course if self.steps else "")


class DoesNotFit(ValueError):
    """The compiler found no way to make a program small enough for the memory."""

    def __init__(self, message: str, needed: int):
        super().__init__(message)
        self.needed = needed
        """Bytes of a chip that the program would use."""


def make_plan(experiment: Experiment, topology: str, slices: int = 1, keep: Path | None = None) -> Plan:
    """Compile ``experiment``'s step for ``slices`` slices of ``topology`` and say what it takes.

    ``keep``: directory of what was compiled before, not to be compiled again. Raises ValueError where the mesh, the
    batch or a leaf does not fit the devices, or libtpu knows no such topology, DoesNotFit where the compiler finds no
    way to make the program small enough for the memory, and CompilerFails where it fails itself.
    """
    mesh = planned_mesh(experiment.mesh, topology, slices)
    check_batch(experiment.data.batch, experiment.accumulate, mesh)
    key, batch = jax.eval_shape(lambda: jax.random.key(0)), batch_shapes(experiment.data)
    frozen = jax.eval_shape(experiment.stage.expects, key, batch) if experiment.stage.reads else {}
    with jax.set_mesh(mesh):
        program = build(experiment, mesh, frozen, batch, {})
        arguments = (program.state, program.frozen, key, program.batch)
        where = f"{slices} x {topology} {compiler_options(mesh, experiment.overlap)}"
        with failures_named(experiment.overlap):
            done = _compile(program.step, arguments, where, keep, held(program), _REMEDY)
    summary = read(done.text, dict(mesh.shape))
    played = _played(done.text, summary, mesh, topology, program.kernel_flops)
    plain = build(whole(experiment), Mesh().build(jax.devices()[:1]), frozen, batch, {})
    held_now, params = held(program), program.state.params
    return Plan(
        experiment.stage.name, topology, slices, dict(mesh.shape), experiment.data.batch, experiment.steps,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        memory=held_now | {"temporaries": done.temporaries, "code": done.code, "peak": done.peak + idle(program)},
        usable=int(CHIPS[topology.split(":")[0]].usable), least=least_memory(experiment, program, mesh),
        least_messages=least_messages(program, experiment.accumulate), model_flops=plain.flops,
        flops=summary.flops * mesh.size + program.kernel_flops, traffic=summary.traffic, host=summary.host,
        collectives=tuple(summary.collectives), waits=_waits(played), in_order=played.seconds,
        warnings=(
            *of_shards(params), *of_messages(summary, params), *of_waits(played), *of_memory(done, held_now)
        ),
        compile_seconds=done.seconds, compile_bytes=done.host,
    )  # fmt: skip


def planned_mesh(mesh: Mesh, topology: str, slices: int) -> jax.sharding.Mesh:
    """The mesh on devices that are not there. Raises ValueError where there is no such topology, or it does not fit."""
    if topology.split(":")[0] not in CHIPS:
        raise ValueError(f"--topology {topology}: the generation is one of {', '.join(CHIPS)}, as in v5e:16x16")
    return mesh.build(describe(topology, slices))


def plan_sampling(
    paint: Callable, params: dict[str, Params], captions: int, context: int, mesh: jax.sharding.Mesh, topology: str,
    slices: int = 1, keep: Path | None = None,
) -> Plan:  # fmt: skip
    """Compile ``paint(params, tokens, key)`` (``DallE2.painter``) for a batch of captions and say what it takes.

    ``params``: shapes by stage that carry their shardings on ``mesh``, which is of ``topology``. The least is what the
    parameters' shares take. Raises as ``make_plan`` does.
    """
    check_batch(captions, 1, mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((captions, context), jnp.int32, sharding=split_batch(mesh))
    own = {name: tree for name, tree in params.items() if not any(tree is params[n] for n in params if n > name)}
    parts = {name: shard_bytes(tree) for name, tree in own.items()}
    remedy = "Split more (--mesh.data, --mesh.model), or paint fewer at once (--sample)"
    with jax.set_mesh(mesh):
        jaxpr = paint.trace(params, tokens, key).jaxpr.jaxpr
        where = f"{slices} x {topology} {compiler_options(mesh)}"
        with failures_named():
            done = _compile(paint, (params, tokens, key), where, keep, parts, remedy)
    summary, kernels = read(done.text, dict(mesh.shape)), count_kernels(jaxpr)
    played = _played(done.text, summary, mesh, topology, kernels)
    return Plan(
        "painting", topology, slices, dict(mesh.shape), captions, 0,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(own)),
        memory=parts | {"temporaries": done.temporaries, "code": done.code, "peak": done.peak},
        usable=int(CHIPS[topology.split(":")[0]].usable), least=parts, least_messages=0,
        model_flops=round(count_jaxpr(jaxpr)), flops=summary.flops * mesh.size + round(kernels),
        traffic=summary.traffic, host=summary.host, collectives=tuple(summary.collectives),
        waits=_waits(played), in_order=played.seconds, warnings=(*of_messages(summary, {}), *of_waits(played)),
        compile_seconds=done.seconds, compile_bytes=done.host,
    )  # fmt: skip


def _played(text: str, summary: Summary, mesh: jax.sharding.Mesh, topology: str, kernel_flops: float) -> Played:
    calls = summary.kernels.get(KERNEL, 1)
    return play(text, dict(mesh.shape), CHIPS[topology.split(":")[0]], kernel_flops / mesh.size / calls)


def _waits(played: Played) -> dict[str, float]:
    waits = dict.fromkeys(("ICI", "DCN"), 0.0)
    for one, late in played.waits:
        waits[carrier(one)] += late
    return waits


def _compile(
    step: Callable, arguments: tuple, where: str, keep: Path | None, parts: dict[str, int], remedy: str
) -> Compiled:
    try:
        return compiled(step, arguments, where, keep, PLANNING)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        given = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in parts.items())
        raise DoesNotFit(
            f"the step does not fit: {str(error).splitlines()[0]} GiB of one chip's share before anything is computed: "
            f"{given}. {remedy}.",
            _used(str(error)),
        ) from error


def _number(value: float) -> str:
    """Three digits of it, or all of its whole part."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _used(text: str) -> int:
    """Bytes that the compiler says a program too large would use; 0 where it doesn't say."""
    found = re.search(r"(?:Used |temporaries \()([\d.]+)([KMGT])", text)
    return round(float(found.group(1)) * 2 ** (10 * (1 + "KMGT".index(found.group(2))))) if found else 0
