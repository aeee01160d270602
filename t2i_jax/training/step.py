"""One training step as a pure function.

``state', metrics = step(state, frozen, key, batch)``: the gradient of the stage's loss on the batch, an update, and the
moving average ``ema' = d ema + (1 - d) params'`` with ``d = min(decay, (1 + step) / (10 + step))``, whose warm-up
forgets the initial parameters quickly. All noise comes from ``fold_in(key, step)``, so a step is a function of the seed
and its number alone.

A step whose loss or gradient is not finite changes nothing but its number: parameters, average and the optimizer's
moments and counts stay bit for bit. So the next step draws other examples and other noise, and the learning rate, which
follows the optimizer's count of updates, does not move on either.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from t2i_jax.stages.base import Stage
from t2i_jax.training.optimizer import Optimizer
from t2i_jax.training.state import TrainState
from t2i_jax.types import Batch, Params

Metrics = dict[str, Array]
NONE: frozenset[str] = frozenset()
Step = Callable[[TrainState, dict, Array, Batch], tuple[TrainState, Metrics]]


def make_step(
    stage: Stage, optimizer: Optimizer, steps: int, *, decay: float, accumulate: int = 1, cached: frozenset[str] = NONE
) -> Step:
    """The step of a training of ``steps`` steps, to be jitted with the state donated.

    ``cached``: which of the stage's features ("image", "text") the batches hold already. Metrics: the stage's own,
    ``loss``, ``grad_norm`` (before clipping), ``lr`` and ``skipped`` (1 where the step was, because something was not
    finite, else 0).
    """
    transform = optimizer.build(steps)
    gradient = make_gradient(stage, accumulate, cached)

    def step(state: TrainState, frozen: dict, key: Array, batch: Batch) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(key, state.step)
        (value, metrics), grads = gradient(state.params, frozen, rng, batch)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        rate = optimizer.rate(_updates(state), steps)
        metrics |= {"loss": value, "grad_norm": norm, "lr": rate, "skipped": 1 - finite}

        def update(state: TrainState) -> TrainState:
            updates, opt_state = transform.update(grads, state.opt_state, state.params, norm=norm)
            params = optax.apply_updates(state.params, updates)
            d = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
            ema = jax.tree.map(lambda old, new: d * old + (1 - d) * new, state.ema, params)
            return TrainState(state.step + 1, params, ema, opt_state)

        skip = lambda state: dataclasses.replace(state, step=state.step + 1)
        # a branch, not a select of each leaf: that would keep old and new values at once
        return jax.lax.cond(finite, update, skip, state), metrics

    return step


def make_gradient(stage: Stage, accumulate: int = 1, cached: frozenset[str] = NONE) -> Callable:
    """``gradient(params, frozen, rng, batch) -> ((loss, metrics), gradient)`` of a step's whole batch."""

    def loss(params: Params, frozen: dict, rng: Array, batch: Batch) -> tuple[Array, Metrics]:
        image = {} if "image" in cached else stage.image_features(frozen, batch["image"])
        text = {} if "text" in cached else stage.text_features(frozen, batch["tokens"])
        return stage.loss(params, frozen, rng, widen(batch | image | text))

    return accumulated(jax.value_and_grad(loss, has_aux=True), accumulate)


def _updates(state: TrainState) -> Array:
    """How many updates the optimizer has made: the steps without those that were skipped."""
    counts = optax.tree_utils.tree_get_all_with_path(state.opt_state, "count")
    return counts[0][1] if counts else state.step


def accumulated(gradient: Callable, parts: int) -> Callable:
    """``gradient(params, frozen, rng, batch)`` averaged over ``parts`` micro-batches, one after the other.

    Equal to the whole batch up to rounding for a loss that is a mean over examples and draws nothing; each part draws
    from its own key. Part i takes the examples i, i + parts, …, so that a device's shard holds its share of each part.
    """
    if parts == 1:
        return gradient

    def average(params: Params, frozen: dict, rng: Array, batch: Batch) -> tuple:
        split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
        first = jax.tree.map(lambda x: x[0], split)
        shapes = jax.eval_shape(gradient, params, frozen, rng, first)
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def add(total: tuple, part: tuple) -> tuple:
            index, micro = part
            one = gradient(params, frozen, jax.random.fold_in(rng, index), micro)
            return jax.tree.map(lambda t, x: t + x / parts, total, one), None

        return jax.lax.scan(add, zero, (jnp.arange(parts), split))[0]

    return average


def widen(batch: Batch) -> Batch:
    """Half-precision features, as the cache keeps them, to float32."""
    return {name: x.astype(jnp.float32) if x.dtype == jnp.float16 else x for name, x in batch.items()}
