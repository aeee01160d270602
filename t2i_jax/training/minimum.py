"""The least that a step must hold and send: what a plan's figures are compared with.

Memory: a chip's shares of the state, the frozen parameters, the batch and the gradients; what the policy keeps on the
chip from the forward to the backward pass; and one layer at work, its kernels whole and the outcomes of its products,
or one product of a frozen stage.
Messages: those of fully sharded data parallelism, two gathers of each parameter and one scatter of its gradient, and
one gather of each frozen parameter that is used; none for kernels whose rows go to them (``rules.FEW``).
What the ``model`` axis can split counts as split by it, in memory and in messages.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval

from t2i_jax.models.remat import on_device
from t2i_jax.parallel.rules import FEW, leaf_name
from t2i_jax.training.experiment import Experiment
from t2i_jax.training.program import Program
from t2i_jax.types import BATCH_AXES, MODEL_AXIS

HALF = 2
"""Bytes of a parameter, or of its gradient, in a message."""


def held(program: Program) -> dict[str, int]:
    """Bytes of one device's share of what a step is given, by part."""
    state = program.state
    parts = {"params": state.params, "ema": state.ema, "moments": state.opt_state, "frozen": program.frozen}
    return {name: shard_bytes(tree) for name, tree in (parts | {"batch": program.batch}).items()}


def idle(program: Program) -> int:
    """Bytes of one device's share of the frozen parameters that the step does not read: they are there, and the
    compiler does not know of them."""
    return held(program)["frozen"] - shard_bytes([leaf for _, leaf in _used(program)])


def shard_bytes(tree: Any) -> int:
    """Bytes of one device's shards of a tree of ShapeDtypeStructs that carry their shardings."""
    size = lambda leaf: jax.ShapeDtypeStruct(leaf.sharding.shard_shape(leaf.shape), leaf.dtype)
    return sum(one.size * one.dtype.itemsize for one in map(size, jax.tree.leaves(tree)))


def least_memory(experiment: Experiment, program: Program, mesh: jax.sharding.Mesh) -> dict[str, int]:
    """Bytes of one chip, by part."""
    ways = math.prod(mesh.shape[axis] for axis in (*BATCH_AXES, MODEL_AXIS))
    with jax.set_mesh(mesh):
        loss = _Loss(experiment, program)
        kept = loss.rows * kept_by_an_example(experiment, program)
        trained, features = loss.jaxprs()
        layers = [_at_work(body, ways, mesh) for body in _layers(trained)]
        passing = [_passing(product, ways, mesh) for product, ways in _products(features, ways)]
    return held(program) | {
        "gradients": shard_bytes(program.state.params),
        "kept": kept // ways,
        "layer": max([0, *layers, *passing]),
    }


def kept_by_an_example(experiment: Experiment, program: Program) -> int:
    """Bytes that one more example of a batch makes the backward pass keep, on all chips."""
    loss = _Loss(experiment, program)
    return (loss.kept(2 * loss.rows) - loss.kept(loss.rows)) // loss.rows


def least_messages(program: Program, parts: int) -> int:
    """Bytes that a chip's gathers and scatters over ``data`` give or take in a step of ``parts`` micro-batches."""
    gathered = lambda leaves: sum(_gathered(path, leaf) for path, leaf in leaves)
    return parts * (3 * gathered(jax.tree_util.tree_leaves_with_path(program.state.params)) + gathered(_used(program)))


def _gathered(path: tuple, leaf: jax.ShapeDtypeStruct) -> int:
    """Bytes of a chip's part of a leaf once it is gathered along ``data``; 0 where it never is."""
    axes = {axis for part in leaf.sharding.spec for axis in (part if isinstance(part, tuple) else (part,))}
    if "data" not in axes or re.search(FEW, leaf_name(path)):
        return 0
    return HALF * leaf.size // (leaf.sharding.mesh.shape[MODEL_AXIS] if MODEL_AXIS in axes else 1)


def _used(program: Program) -> list[tuple[tuple, jax.ShapeDtypeStruct]]:
    """The frozen parameters that the step reads, each with its path."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    jaxpr = program.step.trace(program.state, program.frozen, key, program.batch).jaxpr.jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    before, leaves = len(jax.tree.leaves(program.state)), jax.tree_util.tree_leaves_with_path(program.frozen)
    return [leaf for leaf, wanted in zip(leaves, used[before:]) if wanted]


class _Loss:
    """An experiment's loss of one micro-batch, with features made within."""

    def __init__(self, experiment: Experiment, program: Program):
        self.stage, self.program = on_device(experiment.stage), program
        self.rows = experiment.data.batch // experiment.accumulate

    def kept(self, rows: int) -> int:
        """Bytes that the backward pass of ``rows`` examples needs of the forward pass, on all chips, constants too."""

        def back(params: Any, frozen: Any, key: Any, batch: Any) -> Any:
            given = batch | self.stage.features(frozen, batch)
            return jax.vjp(lambda params: self.stage.loss(params, frozen, key, given)[0], params)[1]

        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(back, *self._shapes(rows))))

    def jaxprs(self) -> tuple[core.Jaxpr, core.Jaxpr]:
        """The loss of given features, traced, and the features."""
        params, frozen, key, batch = self._shapes(self.rows)
        features, shapes = jax.make_jaxpr(self.stage.features, return_shape=True)(frozen, batch)
        loss = lambda params, frozen, key, batch: self.stage.loss(params, frozen, key, batch)[0]
        return jax.make_jaxpr(loss)(params, frozen, key, batch | shapes).jaxpr, features.jaxpr

    def _shapes(self, rows: int) -> tuple:
        key = jax.eval_shape(lambda: jax.random.key(0))
        part = lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype, sharding=leaf.sharding)
        return self.program.state.params, self.program.frozen, key, jax.tree.map(part, self.program.batch)


def _layers(jaxpr: core.Jaxpr) -> Iterator[core.Jaxpr]:
    """Bodies of what is computed again in the backward pass, wherever in ``jaxpr`` they stand."""
    for eqn in jaxpr.eqns:
        for inner in _inside(eqn):
            if eqn.primitive.name == "remat2":
                yield inner
            else:
                yield from _layers(inner)


def _at_work(body: core.Jaxpr, ways: int, mesh: jax.sharding.Mesh) -> int:
    """Bytes of a chip while a layer's gradient is computed: kernels whole, and the largest one's gradient; outcomes."""
    kernels, outcomes = [], 0
    for eqn, split in _products(body, ways):
        right, out = eqn.invars[1].aval, eqn.outvars[0].aval
        outcomes += out.size * out.dtype.itemsize // split
        if _has_kernel(eqn):
            rows = eqn.invars[0].aval.size // mesh.shape[BATCH_AXES[0]] if out.ndim == 2 else math.inf
            kernels.append(min(right.size, rows) * right.dtype.itemsize)  # few rows go to the kernel
    return outcomes + (sum(kernels) + max(kernels, default=0)) // mesh.shape[MODEL_AXIS]


def _passing(product: core.JaxprEqn, ways: int, mesh: jax.sharding.Mesh) -> int:
    """Bytes of a chip while a product of a frozen stage is computed, of which nothing is kept: its operands, its
    outcome, and beside a kernel's the stream that the layer adds to, as large as the outcome."""
    left, right, out = (value.aval.size * value.aval.dtype.itemsize for value in (*product.invars, *product.outvars))
    if not _has_kernel(product):
        return (left + right + out) // ways
    return (max(left, right) + 2 * out) // ways + min(left, right) // mesh.shape[MODEL_AXIS]


def _has_kernel(product: core.JaxprEqn) -> bool:
    return product.primitive.name == "conv_general_dilated" or not product.params["dimension_numbers"][1][0]


def _products(jaxpr: core.Jaxpr, ways: int) -> Iterator[tuple[core.JaxprEqn, int]]:
    """Products of ``jaxpr``, each with the devices that share its rows: one for what a device does by itself."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            yield eqn, ways
        elif eqn.primitive.name != "pallas_call":
            for inner in _inside(eqn):
                yield from _products(inner, 1 if eqn.primitive.name == "shard_map" else ways)


def _inside(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
