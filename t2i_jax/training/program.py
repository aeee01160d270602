"""A training as one compiled program: the mesh, where everything lives, how to begin, and the step.

``build(experiment, mesh, frozen, batch)`` needs shapes alone, so it finds what does not fit (heads that don't divide a
width, an axis that doesn't divide a leaf) before anything is read, computed or trained.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from t2i_jax.parallel.mesh import replicated, split_batch
from t2i_jax.parallel.options import compiler_options, failures_named
from t2i_jax.parallel.rules import shardings
from t2i_jax.training.experiment import Experiment
from t2i_jax.training.flops import count_jaxpr, count_kernels
from t2i_jax.training.state import TrainState, init_state
from t2i_jax.training.step import make_step
from t2i_jax.types import Batch, Params


@dataclass(frozen=True)
class Program:
    """What ``build`` gives. Shapes are trees of ShapeDtypeStructs that carry their shardings."""

    state: TrainState
    """Shapes of the training state."""
    frozen: dict[str, Params]
    """Shapes of the frozen parameters."""
    batch: Batch | dict[str, Any]
    """Shapes of a batch as the step takes it."""
    init: Callable[[jax.Array], TrainState]
    """Key -> the state before the first step, each shard made where it lives."""
    step: Callable
    """(state, frozen, key, batch) -> (state, metrics), jitted; donates the state."""
    flops: int
    """Floating-point operations of one step, on all devices together."""
    kernel_flops: int
    """Those among them that hand-written kernels do, where no compiler counts them."""
    traced: Mapping[tuple[int, ...], jax.stages.Traced]
    """The step as traced for each shape of a batch's pictures."""
    overlap: bool
    """Whether the compiler shall hide all messages that it can."""

    def compile(self) -> Callable:
        """The step, compiled for every shape of a batch before the first one comes, so that no step waits for it.

        Raises CompilerFails, with what to do, where the compiler itself fails.
        """
        with failures_named(self.overlap):
            steps = {shape: traced.lower().compile() for shape, traced in self.traced.items()}
        if len(steps) == 1:
            return next(iter(steps.values()))
        return lambda state, frozen, key, batch: steps[batch["image"].shape](state, frozen, key, batch)

    def place_frozen(self, frozen: dict[str, Params]) -> dict[str, Params]:
        """The frozen parameters on the devices."""
        return jax.tree.map(lambda leaf, shape: jax.device_put(leaf, shape.sharding), frozen, self.frozen)


def build(
    experiment: Experiment,
    mesh: Mesh,
    frozen: dict[str, Params],
    batch: dict[str, Any],
    cached: dict[str, Any],
    images: Mapping[tuple[int, ...], float] | None = None,
) -> Program:
    """The program of ``experiment`` on ``mesh``.

    ``frozen``, ``batch``: arrays or shapes, ``batch`` as the pipeline gives it. ``cached``: "image" and/or "text" with
    the shapes of those features as a batch brings them; with the image's it brings no image. ``images``: the shapes
    [b, h, w, 3] that the pictures of a batch have, and the share of the steps of each; default: that of ``batch``.

    Raises ValueError where the stage can't take pictures of one of these shapes.
    """
    stage, optimizer = experiment.stage, experiment.optimizer
    if stage.whole and experiment.accumulate > 1:
        raise ValueError(
            f"the stage {stage.name!r} compares all examples of a batch with each other, and --accumulate "
            f"{experiment.accumulate} would show it a part at a time: leave it at 1, and let the model keep less "
            "(remat) or split the batch over more devices (--mesh.data)"
        )
    transform = optimizer.build(experiment.steps)

    def init(key: jax.Array) -> TrainState:
        zeros = {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in batch.items()}
        return init_state(stage, transform, key, zeros)

    key = jax.eval_shape(lambda: jax.random.key(0))
    frozen = placed(frozen, shardings(frozen, mesh))
    shapes = jax.eval_shape(init, key)
    state = placed(shapes, shardings(shapes, mesh))
    inputs = {name: leaf for name, leaf in batch.items() if name != "image" or "image" not in cached}
    for features in cached.values():
        inputs |= features
    inputs = placed(inputs, {name: split_batch(mesh) for name in inputs})
    step = make_step(
        stage, optimizer, experiment.steps,
        decay=experiment.ema, accumulate=experiment.accumulate, cached=frozenset(cached),
    )  # fmt: skip
    where = jax.tree.map(lambda leaf: leaf.sharding, state)
    out, options = (where, replicated(mesh)), compiler_options(mesh, experiment.overlap)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=out, compiler_options=options)
    begin = jax.jit(init, out_shardings=where)
    if not images or "image" not in inputs:
        images = {batch["image"].shape: 1.0}
    traced, flops, kernels = {}, 0.0, 0.0
    for shape, share in images.items():
        shaped = inputs | ({"image": reshaped(inputs["image"], shape)} if "image" in inputs else {})
        try:
            traced[shape] = jitted.trace(state, frozen, key, shaped)
        except (TypeError, ValueError) as error:
            if len(images) == 1 and shape == batch["image"].shape:
                raise
            raise ValueError(
                f"the stage {stage.name!r} can't take pictures {shape[1]} high and {shape[2]} wide, which data.buckets "
                f"asks for: {error}"
            ) from error
        jaxpr = traced[shape].jaxpr.jaxpr
        flops, kernels = flops + share * count_jaxpr(jaxpr), kernels + share * count_kernels(jaxpr)
    return Program(state, frozen, inputs, begin, jitted, round(flops), round(kernels), traced, experiment.overlap)


def reshaped(image: jax.ShapeDtypeStruct, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """Pictures of another shape, living where those of ``image`` do."""
    return jax.ShapeDtypeStruct(shape, image.dtype, sharding=image.sharding)


def placed(tree: Any, where: Any) -> Any:
    """The shapes of ``tree`` with the shardings ``where``."""
    return jax.tree.map(lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), tree, where)
