"""The training state: all that a step changes and a checkpoint holds."""

from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from t2i_jax.stages.base import Stage
from t2i_jax.types import Batch, Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Steps done so far, skipped ones too, the parameters, their moving average, and the optimizer's moments."""

    step: Any  # a scalar; like every field, its shape or its sharding in trees that describe a state
    params: Params
    ema: Params
    opt_state: optax.OptState

    def items(self) -> dict[str, Params]:
        """The fields by name, not copied."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def init_state(stage: Stage, transform: optax.GradientTransformation, rng: Array, batch: Batch) -> TrainState:
    """The state before the first step; the average starts as the parameters themselves."""
    params = stage.init(rng, batch)
    ema = jax.tree.map(jnp.copy, params)  # a second buffer: the step donates both
    return TrainState(jnp.zeros((), jnp.int32), params, ema, transform.init(params))
