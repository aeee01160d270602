"""What a compiled program computes and what it sends: its floating-point operations, its messages between devices.

The compiler's ``cost_analysis`` counts the body of a loop once and says nothing of collectives; its text has it all.
``read(compiled.as_text(), mesh)`` walks the computations from the entry, loops by their trip count, and gives a
``Summary``.

    summary = read(compiled.as_text(), {"replica": 1, "data": 8, "model": 1})
    summary.flops                               # of one device
    [(c.kind, c.axes, c.bytes, c.times) for c in summary.collectives]

A custom call (a Pallas kernel, say) hides its operations; it is counted in ``kernels`` by name. What goes between
slices of TPUs is written as a ``send`` to the machine that has the network; it counts as the collective it stands for.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from t2i_jax.parallel.hlotext import (
    CALLERS,
    KINDS,
    Computations,
    Instruction,
    Shapes,
    callees,
    executions,
    far,
    hosted,
    parse,
    products,
    size_of,
    traffic,
)

SLICE = "slice"
"""In ``Collective.axes`` where a group has devices of several slices."""
_BEGINS, ENDS = "AsyncCollectiveStart", "AsyncCollectiveDone"
"""Custom calls beside a message within a fusion, where it begins and where it ends."""
_CARRIES = "async_collective_fusion"
"""Start of the name of a computation that carries a message along."""


@dataclass(frozen=True)
class Collective:
    """One message that every device of a group sends."""

    kind: str
    """One of KINDS; an all-reduce of which each device keeps its share alone counts as a reduce-scatter."""
    axes: tuple[str, ...]
    """Axes of the mesh that tell the members of a group apart; ``SLICE`` alone for what goes between slices: each of
    them has done its own part of the sum before."""
    group: int
    """Devices in a group."""
    bytes: int
    """Of the whole value on one device: an all-gather's result, a reduce-scatter's or all-reduce's operand."""
    times: int
    """How often it runs in one execution of the program."""
    waits: bool
    """Whether nothing else runs meanwhile, as far as the text tells."""
    source: str
    """The operation of the model that it serves."""

    @property
    def wire(self) -> float:
        """Bytes that a device sends each time, by rings (the bandwidth-optimal way)."""
        if self.kind == "collective-permute":
            return float(self.bytes)
        return (2 if self.kind == "all-reduce" else 1) * self.bytes * (self.group - 1) / self.group


@dataclass
class Summary:
    """What one device does in one execution."""

    flops: int = 0
    collectives: list[Collective] = field(default_factory=list)
    kernels: Counter = field(default_factory=Counter)
    """Custom calls by target, with how often each runs."""
    traffic: int = 0
    """Bytes between the device's memory and what computes: operands and results of whatever is not fused into another
    operation. What lives in on-chip memory is left out, of a stack only the slice that is used counts, of a message
    that many operations carry along what is sent and what arrives, once."""
    host: int = 0
    """Bytes that go to the host's memory, and those that come from there."""


def read(text: str, mesh: Mapping[str, int]) -> Summary:
    """The summary of a program compiled for a mesh with these axis sizes, devices numbered in the mesh's order."""
    computations, entry = parse(text)
    times = executions(computations, entry)
    summary = Summary()
    fused = {i.attribute("calls") for body in computations.values() for i in body if i.op == "fusion"}
    apart = _apart(computations)
    for name, count in times.items():
        shapes = {i.name: i.type for i in computations[name]}
        bounds = bounds_of(computations[name])
        summary.host += count * sum(hosted(i, shapes) for i in computations[name])
        if name not in fused:
            summary.traffic += count * sum(traffic(i, shapes, computations) for i in computations[name])
        for instruction in computations[name]:
            op = instruction.op
            summary.flops += count * products(instruction, shapes)
            if op == "custom-call":
                summary.kernels[instruction.target or "?"] += count
            elif op == "send" and "_xla_megascale_transfer_type" in instruction.rest:
                summary.collectives.append(between_slices(instruction, count, shapes))
            elif op.removesuffix("-start") in KINDS:
                if begins(instruction, name, bounds):
                    hidden = name in apart or instruction.name in bounds
                    one = collective(instruction, name, count, shapes, mesh, hidden)
                    summary.traffic += count * _moved(instruction, one, shapes)
                    summary.collectives.append(one)
    return summary


def bounds_of(body: list[Instruction]) -> dict[str, str]:
    """The collectives of a computation that begin or end a message that others hide, and which of the two."""
    return {name: i.target for i in body if i.target in (_BEGINS, ENDS) for name in i.operands()}


def begins(instruction: Instruction, computation: str, bounds: Mapping[str, str]) -> bool:
    """Whether a message begins, or runs alone, with a collective of ``computation``, which has these bounds: one that
    others hide is written where it begins, in what hides it, and where it ends."""
    return bounds.get(instruction.name, "" if computation.startswith(_CARRIES) else _BEGINS) == _BEGINS


def _apart(computations: Computations) -> set[str]:
    """Computations that run beside the others: what an ``async-start`` calls, and what that calls."""
    apart = {name for name in computations if name.startswith("async")}
    for name in reversed(computations):
        for instruction in computations[name]:
            if instruction.op == "async-start" or (name in apart and instruction.op in CALLERS):
                apart.update(callees(instruction))
    return apart


def collective(
    instruction: Instruction, computation: str, times: int, shapes: Shapes, mesh: Mapping[str, int],
    apart: bool,
) -> Collective:  # fmt: skip
    """The message that an operation of ``computation`` is; ``apart``: others run meanwhile."""
    kind = instruction.op.removesuffix("-start")
    groups = _groups(instruction.rest, math.prod(mesh.values()))
    coordinates = np.array(np.unravel_index(groups[0], tuple(mesh.values())))
    axes = tuple(axis for axis, row in zip(mesh, coordinates) if len(set(row.tolist())) > 1)
    result = size_of(instruction.type)
    whole = sum(size_of(shapes.get(name, "")) for name in instruction.operands())
    if instruction.op.endswith("-start") and kind == "all-gather":
        result = result - whole  # its type is (operands, results)
    if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # how TPUs write it: the sum of all, of which each keeps its slice
    size = result if kind in ("all-gather", "all-to-all") else whole or result
    hidden = instruction.op.endswith("-start") or apart
    source = re.search(r'op_name="([^"]*)"', instruction.rest)
    return Collective(kind, axes, len(groups[0]), size, times, not hidden, source.group(1) if source else "")


def between_slices(instruction: Instruction, times: int, shapes: Shapes) -> Collective:
    """The message that a ``send`` over the network is."""
    given = dict(re.findall(r'_xla_(?:megascale|host_transfer)_(\w+)="([^"]*)"', instruction.rest))
    slices = len(re.match(r"\{([^}]*)\}", given["target"]).group(1).split(","))
    kind, size = given["transfer_type"].lower().replace("_", "-"), size_of(shapes[instruction.operands()[0]])
    whole = size * slices if kind == "all-gather" else size
    return Collective(kind, (SLICE,), slices, whole, times, False, given["rendezvous"])


def _groups(rest: str, devices: int) -> np.ndarray:
    """Device numbers, one row a group."""
    if found := re.search(r"(?:replica_groups|source_target_pairs)=\{\{(.*?)\}\}", rest):
        return np.array([[int(n) for n in row.split(",")] for row in found.group(1).split("},{")])
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        shape, base, order = (tuple(map(int, g.split(","))) if g else None for g in found.groups())
        numbers = np.arange(math.prod(base)).reshape(base)
        return (numbers.transpose(order) if order else numbers).reshape(shape)
    order = r"(?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?"
    if found := re.search(rf"replica_groups=mesh\[(.*?)\]{order} \{{(.*?)\}}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found.group(1)))
        shape, turned = (found.group(i) and [int(n) for n in found.group(i).split(",")] for i in (2, 3))
        inside = re.findall(r"'(\w+)'", found.group(4))
        numbers = np.arange(devices).reshape(shape or devices).transpose(turned or None)
        numbers = numbers.reshape([int(n) for n in sizes.values()])
        last = [list(sizes).index(axis) for axis in inside]
        numbers = np.moveaxis(numbers, last, range(-len(last), 0))
        return numbers.reshape(-1, math.prod(int(sizes[axis]) for axis in inside))
    return np.arange(devices)[None]


def _moved(instruction: Instruction, one: Collective, shapes: Shapes) -> int:
    """Bytes that a message takes from memory and puts there."""
    if instruction.op.endswith("-start"):
        return far(instruction.type)  # its type is (sent, received)
    sent = sum(far(shapes.get(name, "")) for name in instruction.operands())
    return sent if one.kind == "reduce-scatter" else sent + far(instruction.type)  # a fusion writes a scatter's share
