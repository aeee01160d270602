"""Plays a compiled program on a chip's data sheet, operation by operation as its text has them, which is their order.

    played = play(compiled.as_text(), {"replica": 1, "data": 256, "model": 1}, CHIPS["v5e"])
    played.seconds                      # of one execution
    played.waits[:3]                    # the messages for which a chip waits longest, and how long

An operation takes as long as its products at the chip's peak or its traffic with memory, whatever is longer. A message
that runs beside others begins when its links are free; where it ends, a chip waits for what the work since then does
not cover. So do copies between memories. Each axis of a mesh has links of its own. A loop finds all links free.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from t2i_jax.parallel.chips import Chip
from t2i_jax.parallel.hlo import ENDS, SLICE, Collective, begins, between_slices, bounds_of, collective
from t2i_jax.parallel.hlotext import CALLERS, KINDS, Instruction, callees, hosted, parse, products, traffic, trips

KERNEL = "tpu_custom_call"
"""What a Pallas kernel is called by."""
_MEMORY, _HOST = ("memory",), ("host",)
"""Links of copies."""


@dataclass
class Played:
    """One execution on one chip."""

    seconds: float = 0.0
    waits: list[tuple[Collective, float]] = field(default_factory=list)
    """Messages, each with the seconds for which nothing but it, or what its links carried before, went on."""


@dataclass(frozen=True)
class _Sent:
    """What is under way beside the operations."""

    links: tuple[str, ...]
    seconds: float
    message: Collective | None = None


def carrier(one: Collective) -> str:
    """What a message goes over: the links between chips, "ICI", or the data-centre network, "DCN"."""
    return "DCN" if SLICE in one.axes else "ICI"


def seconds_of(one: Collective, chip: Chip) -> float:
    """What a message takes each time: by a ring along one dimension of the torus, both ways at once."""
    return one.wire / (chip.network if carrier(one) == "DCN" else 2 * chip.link)


def play(text: str, mesh: Mapping[str, int], chip: Chip, kernels: float = 0.0) -> Played:
    """Play a program compiled for a mesh with these axis sizes.

    ``kernels``: FLOPs of each call of a Pallas kernel, which the text hides.
    """
    computations, entry = parse(text)
    played = _Play(computations, mesh, chip, kernels).run(entry)
    played.waits.sort(key=lambda row: -row[1])
    return played


class _Play:
    def __init__(self, computations: dict[str, list[Instruction]], mesh: Mapping[str, int], chip: Chip, kernels: float):
        self.computations, self.mesh, self.chip, self.kernels = computations, mesh, chip, kernels
        self.products: dict[str, int] = {}

    def run(self, name: str) -> Played:
        body = self.computations[name]
        shapes, made = _types(body), {i.name: i for i in body}
        played, under_way, free = Played(), {}, defaultdict(float)

        def arrive(sent: _Sent, end: float) -> None:
            if late := max(0.0, end - played.seconds):
                played.seconds = end
                if sent.message:
                    played.waits.append((sent.message, late))

        for i in body:
            if i.op in ("while", "call", "conditional"):
                parts = [self.run(inner) for inner in callees(i)]
                longest = max(parts, key=lambda part: part.seconds, default=Played())
                turns = trips(i, self.computations) if i.op == "while" else 1
                played.seconds += turns * longest.seconds
                played.waits += [(message, turns * late) for message, late in longest.waits]
                continue
            key = self._ends(i, made)
            if key in under_way:
                arrive(*under_way.pop(key))
            if sent := self._begins(i, name, shapes):
                end = max([played.seconds, *(free[link] for link in sent.links)]) + sent.seconds
                free.update(dict.fromkeys(sent.links, end))
                if sent.message and sent.message.waits:
                    arrive(sent, end)
                else:
                    under_way[_rendezvous(i) or i.name] = sent, end
            played.seconds += self._work(i, shapes)
        for sent, end in under_way.values():
            arrive(sent, end)
        return played

    def _work(self, i: Instruction, shapes: Mapping[str, str]) -> float:
        if i.op in ("copy-start", "slice-start"):
            return 0.0
        inner = self.computations[i.attribute("calls")] if i.op == "fusion" else []
        flops = self._flops([i], shapes) + (self.kernels if i.target == KERNEL else 0)
        moved = traffic(i, shapes, self.computations)
        away = hosted(i, shapes) + sum(hosted(one, _types(inner)) for one in inner)
        return max(flops / self.chip.flops, moved / self.chip.bandwidth, away / self.chip.host)

    def _flops(self, body: list[Instruction], shapes: Mapping[str, str]) -> int:
        flops = 0
        for i in body:
            inner = i.attribute("calls") if i.op == "fusion" else None
            if inner is not None and inner not in self.products:
                self.products[inner] = self._flops(self.computations[inner], _types(self.computations[inner]))
            flops += products(i, shapes) + (self.products[inner] if inner else 0)
        return flops

    def _begins(self, i: Instruction, name: str, shapes: Mapping[str, str]) -> _Sent | None:
        """What begins, or runs alone, with an operation."""
        message = None
        if i.op in ("copy-start", "slice-start"):
            return self._copied([i], shapes)
        if i.op == "send" and _rendezvous(i):
            message = between_slices(i, 1, shapes)
        elif i.op.removesuffix("-start") in KINDS:
            message = collective(i, name, 1, shapes, self.mesh, False)
        elif i.op in ("fusion", "async-start"):
            inner = i.attribute("calls")
            message = self._within(inner, i.op == "async-start")
            if message is None and i.op == "async-start":
                return self._copied(self.computations[inner], _types(self.computations[inner]))
        return message and _Sent(message.axes, seconds_of(message, self.chip), message)

    def _copied(self, body: list[Instruction], shapes: Mapping[str, str]) -> _Sent:
        if away := sum(hosted(i, shapes) for i in body):
            return _Sent(_HOST, away / self.chip.host)
        return _Sent(_MEMORY, sum(traffic(i, shapes, self.computations) for i in body) / self.chip.bandwidth)

    def _within(self, name: str, apart: bool) -> Collective | None:
        """The message that begins, or runs alone, in what a fusion or an ``async-start`` calls."""
        body = self.computations[name]
        bounds = bounds_of(body)
        for i in body:
            if i.op in KINDS:
                hidden = apart or i.name in bounds
                return collective(i, name, 1, _types(body), self.mesh, hidden) if begins(i, name, bounds) else None
            for inner in callees(i) if i.op in CALLERS else ():
                if found := self._within(inner, apart):
                    return found
        return None

    def _ends(self, i: Instruction, made: Mapping[str, Instruction]) -> str | None:
        """The name under which what ends with an operation has begun."""
        if i.op == "fusion":
            body = self.computations[i.attribute("calls")]
            return i.name.replace("-done", "-start") if any(one.target == ENDS for one in body) else None
        if not i.op.endswith("-done"):
            return None
        begun = made[i.operands()[0]]
        while begun.op == "async-update":
            begun = made[begun.operands()[0]]
        return _rendezvous(begun) if begun.op == "recv" else None if begun.op == "send" else begun.name


def _types(body: list[Instruction]) -> dict[str, str]:
    return {i.name: i.type for i in body}


def _rendezvous(i: Instruction) -> str | None:
    """Under which name both ends of the network know a message."""
    given = i.rest.partition('_xla_host_transfer_rendezvous="')[2] if i.op in ("send", "recv") else ""
    return given.partition('"')[0] or None
