"""Reads a compiled program's text: its floating-point operations and every message between devices.

The compiler's ``cost_analysis`` counts the body of a loop once and says nothing of collectives; its text has it all.
``read(compiled.as_text(), mesh)`` walks the computations from the entry, loops by their trip count, and gives a
``Summary``. Counted are matrix products and convolutions, as XLA writes them on TPUs too (a product there is a
convolution whose window covers one place), by the pairs of input and kernel places that really meet.

    summary = read(compiled.as_text(), {"replica": 1, "data": 8, "model": 1})
    summary.flops                               # of one device
    [(c.kind, c.axes, c.bytes, c.times) for c in summary.collectives]

A custom call (a Pallas kernel, say) hides its operations; it is counted in ``kernels`` by name. What goes between
slices of TPUs is written as a ``send`` to the machine that has the network; it counts as the collective it stands for.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

SLICE = "slice"
"""In ``Collective.axes`` where a group has devices of several slices."""
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4,
          "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16}  # fmt: skip
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\](\{[^}]*\})?")
_OP = re.compile(r"\s*([a-z][\w\-]*)\(")
_STEP = "async_collective_fusion"
_BEGINS = "AsyncCollectiveStart"
_ENDS = (_BEGINS, "AsyncCollectiveDone")
_CALLERS = ("fusion", "call", "while", "conditional", "async-start", "custom-call")
_HOST = "S(5)"
"""What TPUs' layouts call the host's memory."""
_MOVES_NOTHING = {
    "parameter", "get-tuple-element", "tuple", "bitcast", "constant", "iota", "after-all", "partition-id",
    "while", "conditional", "call", "optimization-barrier", "async-start", "async-update", "async-done",
    "copy-done", "slice-done", "send-done", "recv-done",
    *KINDS, *(f"{kind}-{end}" for kind in KINDS for end in ("start", "done")),
}  # fmt: skip


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
        share = self.bytes * (self.group - 1) / self.group
        return 2 * share if self.kind == "all-reduce" else self.bytes if self.kind == "collective-permute" else share


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


@dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    op: str
    rest: str
    """What follows the operator's opening parenthesis."""

    def attribute(self, name: str) -> str | None:
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
        return found and found.group(1)

    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest[: _closing(self.rest)])


def read(text: str, mesh: Mapping[str, int]) -> Summary:
    """The summary of a program compiled for a mesh with these axis sizes, devices numbered in the mesh's order."""
    computations, entry = _computations(text)
    times = _times(computations, entry)
    summary = Summary()
    fused = {i.attribute("calls") for body in computations.values() for i in body if i.op == "fusion"}
    apart = _apart(computations)
    for name, count in times.items():
        shapes = {i.name: i.type for i in computations[name]}
        bounds = _bounds(computations[name])
        summary.host += count * sum(_hosted(i, shapes) for i in computations[name])
        if name not in fused:
            summary.traffic += count * sum(_traffic(i, shapes, computations) for i in computations[name])
        for instruction in computations[name]:
            op = instruction.op
            if op == "dot":
                summary.flops += count * _dot(instruction, shapes)
            elif op == "convolution":
                summary.flops += count * _convolution(instruction, shapes)
            elif op == "custom-call":
                target = re.search(r'custom_call_target="([^"]*)"', instruction.rest)
                summary.kernels[target.group(1) if target else "?"] += count
            elif op == "send" and "_xla_megascale_transfer_type" in instruction.rest:
                summary.collectives.append(_between_slices(instruction, count, shapes))
            elif op.removesuffix("-start") in KINDS:
                bound = bounds.get(instruction.name, "" if name.startswith(_STEP) else _BEGINS)
                if bound == _BEGINS:  # a hidden message is written where it begins, in what hides it, and where it ends
                    hidden = name in apart or instruction.name in bounds
                    one = _collective(instruction, name, count, shapes, mesh, hidden)
                    summary.traffic += count * _moved(instruction, one, shapes)
                    summary.collectives.append(one)
    return summary


def _bounds(body: list[_Instruction]) -> dict[str, str]:
    """The collectives of a computation that begin or end a message that others hide, and which of the two."""
    calls = [(i, re.search(r'custom_call_target="(\w+)"', i.rest)) for i in body if i.op == "custom-call"]
    return {name: found.group(1) for i, found in calls if found and found.group(1) in _ENDS for name in i.operands()}


def _computations(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = computations.setdefault(header.group(2), [])
            entry = header.group(2) if header.group(1) else entry
        elif current is not None and " = " in line:
            left, right = line.split(" = ", 1)
            end = _closing(right[1:]) + 2 if right.startswith("(") else right.find(" ")
            op = _OP.match(right[end:])
            if op:
                name = left.replace("ROOT", "").strip().lstrip("%")
                current.append(_Instruction(name, right[:end], op.group(1), right[end + op.end() :]))
    if not entry:
        raise ValueError("this text has no ENTRY computation: it is not a compiled program's as_text()")
    return computations, entry


def _times(computations: dict[str, list[_Instruction]], entry: str) -> dict[str, int]:
    """How often each computation that computes runs (reducers and comparators left out)."""
    times: Counter = Counter({entry: 1})
    # A computation is written before the ones that call it.
    for name in reversed(computations):
        for instruction in computations[name] if times[name] else ():
            if instruction.op in _CALLERS:
                trips = _trips(instruction, computations) if instruction.op == "while" else 1
                for callee in _callees(instruction):
                    times[callee] += times[name] * trips
    return {name: count for name, count in times.items() if name in computations and count}


def _apart(computations: dict[str, list[_Instruction]]) -> set[str]:
    """Computations that run beside the others: what an ``async-start`` calls, and what that calls."""
    apart = {name for name in computations if name.startswith("async")}
    for name in reversed(computations):
        for instruction in computations[name]:
            if instruction.op == "async-start" or (name in apart and instruction.op in _CALLERS):
                apart.update(_callees(instruction))
    return apart


def _callees(instruction: _Instruction) -> Iterator[str]:
    for name in ("calls", "body", "to_apply") if instruction.op == "call" else ("calls", "body"):
        if found := instruction.attribute(name):
            yield found
    for name in ("branch_computations", "called_computations"):
        if found := re.search(rf"{name}=\{{([^}}]*)\}}", instruction.rest):
            yield from re.findall(r"%([\w.\-]+)", found.group(1))


def _trips(loop: _Instruction, computations: dict[str, list[_Instruction]]) -> int:
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
    if known:
        return int(known.group(1))
    condition = computations.get(loop.attribute("condition") or "", [])
    limits = [int(i.rest.split(")")[0]) for i in condition if i.op == "constant" and i.type.startswith("s32[]")]
    return max(limits, default=1)


def _collective(
    instruction: _Instruction, computation: str, times: int, shapes: dict[str, str], mesh: Mapping[str, int],
    apart: bool,
) -> Collective:  # fmt: skip
    kind = instruction.op.removesuffix("-start")
    groups = _groups(instruction.rest, math.prod(mesh.values()))
    coordinates = np.array(np.unravel_index(groups[0], tuple(mesh.values())))
    axes = tuple(axis for axis, row in zip(mesh, coordinates) if len(set(row.tolist())) > 1)
    result = _bytes(instruction.type)
    whole = sum(_bytes(shapes.get(name, "")) for name in instruction.operands())
    if instruction.op.endswith("-start") and kind == "all-gather":
        result = result - whole  # its type is (operands, results)
    if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # how TPUs write it: the sum of all, of which each keeps its slice
    size = result if kind in ("all-gather", "all-to-all", "collective-permute") else whole or result
    hidden = instruction.op.endswith("-start") or apart
    source = re.search(r'op_name="([^"]*)"', instruction.rest)
    return Collective(kind, axes, len(groups[0]), size, times, not hidden, source.group(1) if source else "")


def _between_slices(instruction: _Instruction, times: int, shapes: dict[str, str]) -> Collective:
    given = dict(re.findall(r'_xla_(?:megascale|host_transfer)_(\w+)="([^"]*)"', instruction.rest))
    slices = len(re.match(r"\{([^}]*)\}", given["target"]).group(1).split(","))
    kind, size = given["transfer_type"].lower().replace("_", "-"), _bytes(shapes[instruction.operands()[0]])
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


def _dot(instruction: _Instruction, shapes: dict[str, str]) -> int:
    left = _dims(shapes[instruction.operands()[0]])
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest).group(1)
    depth = math.prod(left[int(axis)] for axis in contracted.split(",") if axis)
    return 2 * depth * math.prod(_dims(instruction.type))


def _convolution(instruction: _Instruction, shapes: dict[str, str]) -> int:
    inputs, kernel, outputs = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest).groups()
    left, right = (_dims(shapes[name]) for name in instruction.operands()[:2])
    out = _dims(instruction.type)
    window = _window(instruction.rest, sum(label.isdigit() for label in kernel))
    places = math.prod(
        meetings(left[inputs.index(str(i))], right[kernel.index(str(i))], out[outputs.index(str(i))], **window[i])
        for i in range(len(window))
    )
    channels = right[kernel.index("i")] * out[outputs.index("f")] * out[outputs.index("b")]
    return 2 * places * channels


def _window(rest: str, dimensions: int) -> list[dict[str, int]]:
    found = re.search(r"window=\{([^}]*)\}", rest)
    given = dict(part.split("=") for part in found.group(1).split()) if found else {}
    numbers = lambda name: [int(n) for n in given[name].split("x")] if name in given else [1] * dimensions
    pads = given["pad"].split("x") if "pad" in given else ["0_0"] * dimensions
    rows = zip(numbers("stride"), pads, numbers("lhs_dilate"), numbers("rhs_dilate"))
    return [
        {"stride": stride, "pad": int(pad.split("_")[0]), "spread": spread, "apart": apart}
        for stride, pad, spread, apart in rows
    ]


def meetings(size: int, kernel: int, out: int, stride: int, pad: int, spread: int, apart: int) -> int:
    """Pairs of an output's and a kernel's place that meet a real place of the input, along one dimension."""
    places = np.arange(out)[:, None] * stride + np.arange(kernel) * apart - pad
    return int(((places >= 0) & (places <= (size - 1) * spread) & (places % spread == 0)).sum())


def _traffic(instruction: _Instruction, shapes: dict[str, str], computations: dict[str, list[_Instruction]]) -> int:
    if instruction.op in _MOVES_NOTHING:
        return 0
    operands = [shapes.get(name, "") for name in instruction.operands()]
    ways = 1 if _hosted(instruction, shapes) else 2
    if instruction.op == "dynamic-slice":
        return ways * _far(instruction.type)
    if instruction.op == "copy-start":  # its type is (to, from, …)
        return _far(instruction.type)
    if instruction.op == "slice-start":  # its type is ((from), to, …), and only a slice is read
        from_, to = _SHAPE.findall(instruction.type)[:2]
        return sum("S(" not in layout for _, _, layout in (from_, to)) * _bytes("{}[{}]".format(*to))
    if instruction.op == "dynamic-update-slice":
        return ways * _far(operands[1])
    if instruction.op != "fusion":
        return _far(instruction.type) + sum(map(_far, operands))
    body = computations.get(instruction.attribute("calls") or "", [])
    return _written(body) + sum(_read(i, type_, body, computations) for i, type_ in enumerate(operands))


def _hosted(instruction: _Instruction, shapes: dict[str, str]) -> int:
    """Bytes that an operation takes to the host's memory or brings from there."""
    if instruction.op == "copy-start":  # its type is (to, from, …)
        to, from_ = _SHAPE.findall(instruction.type)[:2]
        return _bytes("{}[{}]".format(*to)) if (_HOST in to[2]) != (_HOST in from_[2]) else 0
    if instruction.op not in ("dynamic-update-slice", "dynamic-slice", "copy"):
        return 0
    given = [shapes.get(name, "") for name in instruction.operands()]
    moved = given[1] if instruction.op == "dynamic-update-slice" else instruction.type
    other = instruction.type if instruction.op == "dynamic-update-slice" else given[0]
    return _bytes(moved) if (_HOST in moved) != (_HOST in other) else 0


def _moved(instruction: _Instruction, one: Collective, shapes: dict[str, str]) -> int:
    """Bytes that a message takes from memory and puts there."""
    if instruction.op.endswith("-start"):
        return _far(instruction.type)  # its type is (sent, received)
    sent = sum(_far(shapes.get(name, "")) for name in instruction.operands())
    return sent if one.kind == "reduce-scatter" else sent + _far(instruction.type)  # a fusion writes a scatter's share


def _read(number: int, type_: str, body: list[_Instruction], computations: dict[str, list[_Instruction]]) -> int:
    """Bytes that a fusion reads of its operand ``number``."""
    mine = next((i.name for i in body if i.op == "parameter" and i.rest.startswith(f"{number})")), None)
    carry, size = _carriers(body), 0
    for use in body:
        for place, name in enumerate(use.operands()) if use.name not in carry else ():
            if name != mine:
                continue
            if use.op == "dynamic-slice" and place == 0:
                size += _far(use.type) if "S(" not in type_ else 0
            elif use.op == "fusion":
                size += _read(place, type_, computations.get(use.attribute("calls") or "", []), computations)
            elif use.op != "dynamic-update-slice" or place:
                return _far(type_)
    return min(size, _far(type_))


def _written(body: list[_Instruction]) -> int:
    """Bytes that a fusion writes: of a stack that it updates in place, the new slice; nothing of what it carries."""
    made, root, carry = {i.name: i for i in body}, body[-1], _carriers(body)
    results = [made[name] for name in root.operands()] if root.op == "tuple" else [root]
    whole = sum(_far(i.type) for i in results if i.op != "parameter" and i.name not in carry)
    for i in body:
        if i.op == "dynamic-update-slice" and (size := _far(i.type)) <= whole:
            whole += _far(made[i.operands()[1]].type) - size
    return whole


def _carriers(body: list[_Instruction]) -> set[str]:
    """What in a fusion belongs to a message: the message, the calls that begin and end it, the tuple that goes on."""
    messages = {i.name for i in body if i.op in KINDS}
    calls = {i.name for i in body if i.op == "custom-call" and messages & set(i.operands())}
    return messages | calls | ({body[-1].name} if body[-1].op == "tuple" else set())


def _far(type_: str) -> int:
    """Bytes of the shapes that don't live in on-chip memory, which TPUs' layouts call S(1)."""
    return sum(_bytes(f"{kind}[{dims}]") for kind, dims, layout in _SHAPE.findall(type_) if "S(" not in layout)


def _dims(type_: str) -> list[int]:
    return [int(n) for n in _SHAPE.search(type_).group(2).split(",") if n]


def _bytes(type_: str) -> int:
    found = _SHAPE.findall(type_)
    return math.ceil(
        sum(_BYTES.get(kind, 1) * math.prod(int(n) for n in dims.split(",") if n) for kind, dims, _ in found)
    )


def _closing(text: str) -> int:
    """Index of the parenthesis that closes one opened before ``text``."""
    depth = 1
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return i
    return len(text)
