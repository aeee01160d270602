"""Optimizers and learning-rate schedules as values.

    AdamW(learning_rate=3e-4, schedule=Cosine(warmup=500))
    Muon(learning_rate=1e-3, schedule=Constant(warmup=200, cooldown=2000))

``build(steps)`` gives the optax transform for a training of ``steps`` steps. AdamW is Loshchilov & Hutter
(https://arxiv.org/abs/1711.05101); Muon (Jordan 2024) orthogonalises the momentum of matrices by a Newton-Schulz
iteration, here scaled to AdamW's update size (https://arxiv.org/abs/2502.16982) so that one learning rate serves both.
"""

import math
import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from t2i_jax.types import Params


@dataclass(frozen=True)
class Schedule:
    """The learning rate's course: a factor in [0, 1] on the peak rate, after a linear warm-up."""

    warmup: int = 100
    """Steps over which the rate rises linearly to its peak."""

    def shape(self, step: Array, steps: int) -> Array:
        """Factor at ``step`` of ``steps``, the warm-up left out."""
        raise NotImplementedError

    def factor(self, step: Array, steps: int) -> Array:
        """Factor on the peak rate at ``step`` (0-based) of ``steps``; the first step's is 1/warmup, not 0."""
        rise = jnp.minimum((step + 1) / max(self.warmup, 1), 1.0)
        return rise * self.shape(step, steps)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 after the warm-up to ``final`` at the last step."""

    final: float = 0.0
    """Share of the peak rate that is left at the end."""

    def shape(self, step: Array, steps: int) -> Array:
        progress = jnp.clip((step - self.warmup) / max(steps - self.warmup, 1), 0.0, 1.0)
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + jnp.cos(math.pi * progress))


@dataclass(frozen=True)
class Constant(Schedule):
    """Flat after the warm-up; the last ``cooldown`` steps fall linearly to zero."""

    cooldown: int = 0
    """Steps of linear decay to zero at the end; 0 keeps the rate flat."""

    def shape(self, step: Array, steps: int) -> Array:
        return jnp.clip((steps - step) / max(self.cooldown, 1), 0.0, 1.0)


@dataclass(frozen=True)
class Optimizer:
    """What every optimizer has: a peak rate, its course, and a limit on the gradient's norm."""

    learning_rate: float = 3e-4
    """Peak learning rate."""
    schedule: Schedule = Cosine()
    """Course of the learning rate: Cosine(warmup, final) or Constant(warmup, cooldown)."""
    clip: float = 1.0
    """Largest global norm of the gradient; larger ones are scaled down to it. 0 switches it off."""

    def rate(self, step: Array, steps: int) -> Array:
        """Learning rate at ``step`` (0-based) of ``steps``."""
        return self.learning_rate * self.schedule.factor(step, steps)

    def update(self, rate: optax.Schedule) -> optax.GradientTransformation:
        """The rule itself, without the clipping."""
        raise NotImplementedError

    def build(self, steps: int) -> optax.GradientTransformationExtraArgs:
        """The optax transform of a training of ``steps`` steps: clip, then update. Its ``update`` takes the gradient's
        global ``norm``, which the step has computed already."""
        update = self.update(lambda count: self.rate(count, steps))
        return optax.chain(_clip(self.clip), update) if self.clip else optax.with_extra_args_support(update)


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay on the kernels (never on biases, norms or embeddings)."""

    b1: float = 0.9
    """Decay of the first moment."""
    b2: float = 0.99
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    decay: float = 0.01
    """Weight decay, times the learning rate."""

    def update(self, rate: optax.Schedule) -> optax.GradientTransformation:
        return optax.adamw(rate, self.b1, self.b2, self.eps, weight_decay=self.decay, mask=kernels)


@dataclass(frozen=True)
class Muon(Optimizer):
    """Muon for the matrices named by ``matrices``; for everything else Adam at the same rate, with Nesterov's momentum
    (NAdam) and without weight decay."""

    matrices: str = r"(blocks|last)/.*kernel$"
    """Regular expression over parameter names: the kernels that Muon updates (inputs and outputs do better on Adam)."""
    momentum: float = 0.95
    """Decay of Muon's momentum (Nesterov)."""
    rms: float = 0.2
    """Root mean square of a Muon update at rate 1; 0.2 is AdamW's own."""
    iterations: int = 5
    """Newton-Schulz iterations."""
    b1: float = 0.9
    """Decay of Adam's first moment."""
    b2: float = 0.99
    """Decay of Adam's second moment."""
    decay: float = 0.01
    """Weight decay, times the learning rate, on the matrices of Muon alone: other kernels have none."""

    def __post_init__(self):
        try:
            re.compile(self.matrices)
        except re.error as error:
            raise ValueError(f"optimizer.matrices={self.matrices!r} is no regular expression: {error}") from error

    def update(self, rate: optax.Schedule) -> optax.GradientTransformation:
        def dimensions(params: Params) -> Params:
            return jax.tree_util.tree_map_with_path(
                lambda path, leaf: _matrix(leaf.ndim) if re.search(self.matrices, _name(path)) else None, params
            )

        muon = optax.contrib.muon(
            rate, ns_steps=self.iterations, beta=self.momentum, weight_decay=self.decay, consistent_rms=self.rms,
            adam_b1=self.b1, adam_b2=self.b2, muon_weight_dimension_numbers=dimensions,
        )  # fmt: skip
        return muon


def _clip(limit: float) -> optax.GradientTransformationExtraArgs:
    """optax's ``clip_by_global_norm`` for a norm that is known: reading every gradient once more would take as long as
    a good part of the update."""

    def update(grads: Params, state: optax.EmptyState, params: Params | None = None, *, norm: Array, **_: object):
        scale = limit / jnp.maximum(norm, limit)
        return jax.tree.map(lambda g: (g * scale).astype(g.dtype), grads), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def kernels(params: Params) -> Params:
    """A tree of booleans: True at the leaves named ``kernel`` (a scanned bias is two-dimensional, so rank won't do)."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _name(path).rsplit("/")[-1] == "kernel", params)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _matrix(rank: int) -> optax.contrib.MuonDimensionNumbers:
    """Which axes of a kernel are a matrix: [in, out], scanned [depth, in, out], convolution [u, v, in, out]."""
    if rank == 4:
        return optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
    return optax.contrib.MuonDimensionNumbers(rank - 2, rank - 1)
