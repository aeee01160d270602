"""The fastest ways to train an experiment on TPUs that are not there: mesh, micro-batches, and what is kept. And to
paint with a cascade: the mesh.

    found = search(experiment, "v5e:16x16")
    found.plans[0][1].table()       # the fastest that fits; found.report() lists all that were compiled

The batch, and with it what is learnt, stays as it is. Every choice has a bound: its products at the chip's peak, or the
messages of its parameters and gradients, or the way to the host and back, if they take longer. Choices are compiled in
the order of what they promise, until the best so far (its operations in order) is faster than every bound that is left.
What does not fit rules out, uncompiled, all that would need at least as much. Tensor parallelism moves activations,
which no bound counts, so the smaller ``model`` axis goes first.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from t2i_jax.models.remat import ALL, MIXED, NAMES, OUTER, QKV, Remat, with_remat
from t2i_jax.parallel.chips import CHIPS, Chip
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.parallel.options import CompilerFails
from t2i_jax.parallel.rules import FEW, leaf_name, shardings
from t2i_jax.parallel.topology import describe
from t2i_jax.training.experiment import Experiment
from t2i_jax.training.inputs import batch_shapes
from t2i_jax.training.minimum import HALF, kept_by_an_example, shard_bytes
from t2i_jax.training.plan import DoesNotFit, Plan, make_plan
from t2i_jax.training.program import build, placed
from t2i_jax.types import Params

KEPT = ((ALL,), NAMES, (QKV, MIXED, OUTER), (OUTER,), ())
"""What the search tries to keep, most first: each has all of the next one. What it has besides may go to the host."""
PARTS = (1, 2, 4, 8, 16)
"""Micro-batches that it tries to split a batch into."""
TENSOR = (1, 2, 4, 8)
"""Sizes of the ``model`` axis that it tries."""


@dataclass(frozen=True)
class Choice:
    """One way to use the chips."""

    mesh: Mesh
    held: int
    """Bytes of a chip's share of what the program is given."""
    compute: float
    """Seconds of the products at the chip's peak."""
    messages: float
    """Seconds of the messages that the parameters need."""

    @property
    def bound(self) -> float:
        """Seconds that a step takes at least."""
        return max(self.compute, self.messages)

    @property
    def promise(self) -> tuple:
        """What is tried first has the least of these."""
        return self.mesh.model, self.compute + self.messages, self.held

    def works_on_as_much(self, way: "Choice") -> bool:
        """Whether a chip has at least as much to do at a time as by ``way``, besides what it is given."""
        return self.mesh.model == way.mesh.model

    def __str__(self) -> str:
        return "mesh " + " × ".join(f"{f.name} {getattr(self.mesh, f.name)}" for f in dataclasses.fields(Mesh))


@dataclass(frozen=True)
class Training(Choice):
    """One way to train: a chip is given its share of the state and the frozen parameters, and makes a gradient."""

    accumulate: int
    remat: Remat
    host: float = 0.0
    """Seconds of what goes to the host and comes back."""

    @property
    def bound(self) -> float:
        return max(super().bound, self.host)

    def of(self, experiment: Experiment) -> Experiment:
        """The experiment, trained this way."""
        return dataclasses.replace(with_remat(experiment, self.remat), mesh=self.mesh, accumulate=self.accumulate)

    @property
    def promise(self) -> tuple:
        return self.mesh.model, self.compute + self.messages + self.host, self.accumulate, self.held

    def works_on_as_much(self, way: "Training") -> bool:
        more = KEPT.index(self.remat.keep) <= KEPT.index(way.remat.keep)
        alike = not way.remat.offload or way.remat.offload == self.remat.offload  # what is on its way needs room too
        return super().works_on_as_much(way) and self.accumulate <= way.accumulate and more and alike

    def __str__(self) -> str:
        kept, sent = (", ".join(names) for names in (self.remat.keep, self.remat.offload))
        host = f", on the host {sent}" if sent else ""
        return f"{super().__str__()}, accumulate {self.accumulate}, keep {kept or 'nothing'}{host}"


@dataclass
class Found:
    """What a search has compiled."""

    plans: list[tuple[Choice, Plan]] = field(default_factory=list)
    """Those that fit, the fastest first."""
    misfits: list[tuple[Choice, str]] = field(default_factory=list)
    """Those that do not, and what the compiler said."""
    left: int = 0
    """Choices that were not compiled though their bound is below the best: there were too many."""

    def report(self) -> str:
        """A line a choice."""
        row = "{:8.4g} ms  MFU {:4.0%}  {:6.2f} GiB  {}"
        rows = [
            row.format(1e3 * plan.seconds()["in order"], plan.mfu("in order"), plan.memory["peak"] / 2**30, way)
            for way, plan in self.plans
        ]
        rows += [f"does not fit  {choice}: {said}" for choice, said in self.misfits]
        return "\n".join(rows + ([f"{self.left} more were not tried"] if self.left else []))


def search(
    experiment: Experiment, topology: str, slices: int = 1, compiles: int = 10, keep: Path | None = None
) -> Found:
    """Compile at most ``compiles`` ways to train ``experiment`` on ``slices`` slices of ``topology``.

    ``keep``: directory of what was compiled before.
    Raises ValueError where no choice fits the devices at all, or libtpu knows no such topology.
    """
    ways = choices(experiment, topology, describe(topology, slices), slices)
    plan = lambda way: make_plan(way.of(experiment), topology, slices, keep)
    return tried(ways, plan, CHIPS[topology.split(":")[0]], compiles)


def choices(experiment: Experiment, topology: str, devices: list[jax.Device], slices: int) -> list[Training]:
    """Every choice whose mesh divides the batch and the model and whose state alone fits."""
    chip, chips = CHIPS[topology.split(":")[0]], len(devices)
    key, batch = jax.eval_shape(lambda: jax.random.key(0)), batch_shapes(experiment.data)
    frozen = jax.eval_shape(experiment.stage.expects, key, batch) if experiment.stage.reads else {}
    one = Mesh().build(jax.devices()[:1])
    programs = {kept: build(with_remat(experiment, Remat(kept)), one, frozen, batch, {}) for kept in KEPT}
    flops: dict[int, tuple[str, ...]] = {}
    for kept, program in programs.items():
        flops[program.flops] = kept  # of those that compute the same, the one that keeps least
    remats = [(count, Remat(kept), 0.0) for count, kept in flops.items()]
    size = {kept: kept_by_an_example(with_remat(experiment, Remat(kept)), programs[kept]) for kept in flops.values()}
    for (count, kept), less in itertools.product(flops.items(), flops.values()):
        if ALL not in kept and KEPT.index(kept) < KEPT.index(less):
            sent = 2 * (size[kept] - size[less]) * experiment.data.batch / chips / chip.host
            remats.append((count, Remat(less, tuple(name for name in kept if name not in less)), sent))
    state = programs[()].state
    found = []
    for mesh in _meshes(chips, slices):
        held = _held((state, frozen, state.params), mesh, devices)
        if held is None or held > chip.usable:
            continue
        near, own = _shares(state.params, mesh)
        for parts, (count, remat, host) in itertools.product((1,) if experiment.stage.whole else PARTS, remats):
            if experiment.data.batch % (chips // mesh.model * parts) == 0:
                compute = count / chips / chip.flops
                messages = _messages(near, own, mesh.data, mesh.replica, slices, parts, chip)
                found.append(Training(mesh, held, compute, messages, parts, remat, host))
    return _some(found, f"holds its state on {chips} chips of {topology}")


def painting_choices(
    params: Params, flops: int, captions: int, topology: str, devices: list[jax.Device], slices: int
) -> list[Choice]:
    """Every mesh that divides the captions and the parameters, of which a chip's share fits. Each chip needs all of
    them at least once: what is split over ``data`` is gathered."""
    chip, chips = CHIPS[topology.split(":")[0]], len(devices)
    found = []
    for mesh in _meshes(chips, slices):
        held = _held((params,), mesh, devices)
        if held is not None and held <= chip.usable and captions % (chips // mesh.model) == 0:
            gather = HALF * _shares(params, mesh)[0] * (mesh.data - 1) / (2 * chip.link)
            found.append(Choice(mesh, held, flops / chips / chip.flops, gather))
    return _some(found, f"holds its parameters on {chips} chips of {topology}; {captions} captions")


def _some(found: list, what: str) -> list:
    if not found:
        raise ValueError(f"no mesh divides this model and its batch, and {what}")
    return found


def _meshes(chips: int, slices: int) -> Iterator[Mesh]:
    for model in TENSOR:
        for data in (2**power for power in range(chips.bit_length())):
            if chips // slices % (data * model) == 0:
                yield Mesh(replica=chips // data // model, data=data, model=model)


def _shares(params: Params, mesh: Mesh) -> tuple[float, float]:
    """Parameters of a chip's share: those that the layers gather, and all."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    whole = sum(leaf.size for _, leaf in leaves)
    gathered = sum(leaf.size for path, leaf in leaves if not re.search(FEW, leaf_name(path)))
    return gathered / mesh.model / mesh.data, whole / mesh.model / mesh.data


def _held(trees: Iterable[Any], mesh: Mesh, devices: list[jax.Device]) -> int | None:
    """Bytes of a chip's shares; None where an axis does not divide a leaf."""
    built = mesh.build(devices)
    try:
        return sum(shard_bytes(placed(tree, shardings(tree, built))) for tree in trees)
    except ValueError:
        return None


def _messages(gathered: float, own: float, data: int, replica: int, slices: int, parts: int, chip: Chip) -> float:
    """Seconds of two gathers of the parameters and a scatter of the gradient a part, and of its sum over replicas:
    first within each slice, of which every chip then has its share to send to the other slices.

    ``gathered``, ``own``: a chip's share of the parameters that are gathered, and of all.
    """
    scatter = parts * 3 * HALF * gathered * (data - 1) / (2 * chip.link)
    near = replica // slices
    inside = scatter + 2 * HALF * own * (near - 1) / near / (2 * chip.link)
    between = 2 * HALF * own / near * (slices - 1) / slices / chip.network
    return max(inside, between)


def tried(ways: Sequence[Choice], plan: Callable[[Choice], Plan], chip: Chip, compiles: int) -> Found:
    """Compile the most promising of ``ways`` until none that is left can be faster."""
    found, left = Found(), sorted(ways, key=lambda way: way.promise)
    while left and len(found.plans) + len(found.misfits) < compiles:
        way = left.pop(0)
        try:
            one = plan(way)
        except DoesNotFit as error:
            found.misfits.append((way, _of(error.needed, chip) if error.needed else str(error).splitlines()[0]))
            left = [other for other in left if not _needs_more(other, way, error.needed, chip)]
            continue
        except CompilerFails as error:
            found.misfits.append((way, str(error)[:220]))
            continue
        if one.fits:
            found.plans.append((way, one))
            found.plans.sort(key=lambda row: row[1].seconds()["in order"])
            best = found.plans[0][1].seconds()["in order"]
            left = [other for other in left if other.bound < best]
        else:
            needed = one.memory["peak"]
            found.misfits.append((way, _of(needed, chip)))
            left = [other for other in left if not _needs_more(other, way, needed, chip)]
    found.left = len(left)
    return found


def _of(needed: int, chip: Chip) -> str:
    return f"{needed / 2**30:.2f} of {chip.usable / 2**30:.2f} GiB"


def _needs_more(other: Choice, way: Choice, needed: int, chip: Chip) -> bool:
    """Whether ``other`` can't fit: it works on as much at a time as ``way``, which needs so much."""
    return other.works_on_as_much(way) and needed - way.held + other.held > chip.usable
