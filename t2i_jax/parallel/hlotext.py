"""A compiled program's text, taken apart: its computations, and what each operation of them computes and moves.

    computations, entry = parse(compiled.as_text())
    shapes = {i.name: i.type for i in computations[entry]}
    [(i.op, products(i, shapes), traffic(i, shapes, computations)) for i in computations[entry]]

Counted are matrix products and convolutions, as XLA writes them on TPUs too (a product there is a convolution whose
window covers one place), by the pairs of input and kernel places that really meet.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
"""Operations that are messages between devices."""
Computations = Mapping[str, list["Instruction"]]
Shapes = Mapping[str, str]
"""Types by name."""
_BYTES = {"token": 0, "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2,
          "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16}  # fmt: skip
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\](\{[^}]*\})?")
_OP = re.compile(r"\s*([a-z][\w\-]*)\(")
CALLERS = ("fusion", "call", "while", "conditional", "async-start", "custom-call")
_HOST = "S(5)"
"""What TPUs' layouts call the host's memory."""
_MOVES_NOTHING = {
    "parameter", "get-tuple-element", "tuple", "bitcast", "constant", "iota", "after-all", "partition-id",
    "while", "conditional", "call", "optimization-barrier", "async-start", "async-update", "async-done",
    "copy-done", "slice-done", "send-done", "recv-done",
    *KINDS, *(f"{kind}-{end}" for kind in KINDS for end in ("start", "done")),
}  # fmt: skip


@dataclass(frozen=True)
class Instruction:
    """One line."""

    name: str
    type: str
    op: str
    rest: str
    """What follows the operator's opening parenthesis."""

    def attribute(self, name: str) -> str | None:
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
        return found and found.group(1)

    @property
    def target(self) -> str | None:
        """What a custom call calls."""
        found = re.search(r'custom_call_target="([^"]*)"', self.rest) if self.op == "custom-call" else None
        return found and found.group(1)

    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest[: _closing(self.rest)])


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The computations by name, each in the order in which it runs, and the name of the first."""
    computations: dict[str, list[Instruction]] = {}
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
                current.append(Instruction(name, right[:end], op.group(1), right[end + op.end() :]))
    if not entry:
        raise ValueError("this text has no ENTRY computation: it is not a compiled program's as_text()")
    return computations, entry


def executions(computations: Computations, entry: str) -> dict[str, int]:
    """How often each computation that computes runs (reducers and comparators left out)."""
    times: Counter = Counter({entry: 1})
    # A computation is written before the ones that call it.
    for name in reversed(computations):
        for instruction in computations[name] if times[name] else ():
            if instruction.op in CALLERS:
                turns = trips(instruction, computations) if instruction.op == "while" else 1
                for callee in callees(instruction):
                    times[callee] += times[name] * turns
    return {name: count for name, count in times.items() if name in computations and count}


def callees(instruction: Instruction) -> Iterator[str]:
    """Computations that an operation runs."""
    names = ("calls", "body", "true_computation", "false_computation")
    for name in (*names, "to_apply") if instruction.op == "call" else names:
        if found := instruction.attribute(name):
            yield found
    for name in ("branch_computations", "called_computations"):
        if found := re.search(rf"{name}=\{{([^}}]*)\}}", instruction.rest):
            yield from re.findall(r"%([\w.\-]+)", found.group(1))


def trips(loop: Instruction, computations: Computations) -> int:
    """How often a loop turns."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
    if known:
        return int(known.group(1))
    condition = computations.get(loop.attribute("condition") or "", [])
    limits = [int(i.rest.split(")")[0]) for i in condition if i.op == "constant" and i.type.startswith("s32[]")]
    return max(limits, default=1)


def products(instruction: Instruction, shapes: Shapes) -> int:
    """FLOPs of the operation itself, none of what it calls."""
    if instruction.op == "dot":
        return _dot(instruction, shapes)
    return _convolution(instruction, shapes) if instruction.op == "convolution" else 0


def _dot(instruction: Instruction, shapes: Shapes) -> int:
    left = _dims(shapes[instruction.operands()[0]])
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest).group(1)
    depth = math.prod(left[int(axis)] for axis in contracted.split(",") if axis)
    return 2 * depth * math.prod(_dims(instruction.type))


def _convolution(instruction: Instruction, shapes: Shapes) -> int:
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


def traffic(instruction: Instruction, shapes: Shapes, computations: Computations) -> int:
    """Bytes between the device's memory and what computes, of the operation itself."""
    if instruction.op in _MOVES_NOTHING:
        return 0
    operands = [shapes.get(name, "") for name in instruction.operands()]
    if instruction.op in ("dynamic-slice", "slice"):  # of its operand only the slice is read
        return sum("S(" not in type_ for type_ in (operands[0], instruction.type)) * size_of(instruction.type)
    if instruction.op == "copy-start":  # its type is (to, from, …)
        return far(instruction.type)
    if instruction.op == "slice-start":  # its type is ((from), to, …), and only a slice is read
        from_, to = _SHAPE.findall(instruction.type)[:2]
        return sum("S(" not in layout for _, _, layout in (from_, to)) * size_of("{}[{}]".format(*to))
    if instruction.op == "dynamic-update-slice":
        return (1 if hosted(instruction, shapes) else 2) * far(operands[1])
    if instruction.op != "fusion":
        return far(instruction.type) + sum(map(far, operands))
    body = computations.get(instruction.attribute("calls") or "", [])
    return _written(body) + sum(_read(i, type_, body, computations) for i, type_ in enumerate(operands))


def hosted(instruction: Instruction, shapes: Shapes) -> int:
    """Bytes that an operation takes to the host's memory or brings from there."""
    if instruction.op == "copy-start":  # its type is (to, from, …)
        to, from_ = _SHAPE.findall(instruction.type)[:2]
        return size_of("{}[{}]".format(*to)) if (_HOST in to[2]) != (_HOST in from_[2]) else 0
    if instruction.op not in ("dynamic-update-slice", "dynamic-slice", "copy"):
        return 0
    given = [shapes.get(name, "") for name in instruction.operands()]
    moved = given[1] if instruction.op == "dynamic-update-slice" else instruction.type
    other = instruction.type if instruction.op == "dynamic-update-slice" else given[0]
    return size_of(moved) if (_HOST in moved) != (_HOST in other) else 0


def _read(number: int, type_: str, body: list[Instruction], computations: Computations) -> int:
    """Bytes that a fusion reads of its operand ``number``."""
    mine = next((i.name for i in body if i.op == "parameter" and i.rest.startswith(f"{number})")), None)
    carry, size = _carriers(body), 0
    for use in body:
        for place, name in enumerate(use.operands()) if use.name not in carry else ():
            if name != mine:
                continue
            if use.op in ("dynamic-slice", "slice") and place == 0:
                size += size_of(use.type) if "S(" not in type_ else 0
            elif use.op == "fusion":
                size += _read(place, type_, computations.get(use.attribute("calls") or "", []), computations)
            elif use.op != "dynamic-update-slice" or place:
                return far(type_)
    return min(size, far(type_))


def _written(body: list[Instruction]) -> int:
    """Bytes that a fusion writes: of a stack that it updates in place, the new slice; nothing of what it carries."""
    made, root, carry = {i.name: i for i in body}, body[-1], _carriers(body)
    results = [made[name] for name in root.operands()] if root.op == "tuple" else [root]
    whole = sum(far(i.type) for i in results if i.op != "parameter" and i.name not in carry)
    for i in body:
        if i.op == "dynamic-update-slice" and (size := far(i.type)) <= whole:
            whole += far(made[i.operands()[1]].type) - size
    return whole


def _carriers(body: list[Instruction]) -> set[str]:
    """What in a fusion belongs to a message: the message, the calls that begin and end it, the tuple that goes on."""
    messages = {i.name for i in body if i.op in KINDS}
    calls = {i.name for i in body if i.op == "custom-call" and messages & set(i.operands())}
    return messages | calls | ({body[-1].name} if body[-1].op == "tuple" else set())


def far(type_: str) -> int:
    """Bytes of the shapes that don't live in on-chip memory, which TPUs' layouts call S(1)."""
    return sum(size_of(f"{kind}[{dims}]") for kind, dims, layout in _SHAPE.findall(type_) if "S(" not in layout)


def _dims(type_: str) -> list[int]:
    return [int(n) for n in _SHAPE.search(type_).group(2).split(",") if n]


def size_of(type_: str) -> int:
    """Bytes of a type."""
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
