"""Distributions of the training time t in (0, 1): which noise levels a stage practises.

``LogitNormal`` practises the middle (Esser et al. 2024, "Scaling Rectified Flow Transformers", eq. 19).
``Shifted`` moves mass towards noise when a picture has many pixels, since more pixels need more noise to hide the
same picture: ``t' = s t / (1 + (s - 1) t)`` with ``s = sqrt(pixels / pixels of reference)`` (same paper, eq. 23).
"""

from dataclasses import dataclass

import jax
from jaxtyping import Array, Float, Key, UInt32


def shift(t: Float[Array, "..."], factor: float) -> Float[Array, "..."]:
    """``factor t / (1 + (factor - 1) t)``: keeps 0 and 1, moves the rest towards noise when factor > 1."""
    return factor * t / (1.0 + (factor - 1.0) * t)


@dataclass(frozen=True)
class Times:
    """Base of all time distributions."""

    def sample(self, rng: Key[Array, ""] | UInt32[Array, "2"], b: int) -> Float[Array, " b"]:
        """b independent times in [0, 1), float32."""
        raise NotImplementedError


@dataclass(frozen=True)
class Uniform(Times):
    """Every noise level alike."""

    def sample(self, rng: Key[Array, ""] | UInt32[Array, "2"], b: int) -> Float[Array, " b"]:
        return jax.random.uniform(rng, (b,))


@dataclass(frozen=True)
class LogitNormal(Times):
    """``sigmoid(mean + std z)``, z standard normal; mean > 0 leans to noise."""

    mean: float = 0.0
    std: float = 1.0

    def sample(self, rng: Key[Array, ""] | UInt32[Array, "2"], b: int) -> Float[Array, " b"]:
        return jax.nn.sigmoid(self.mean + self.std * jax.random.normal(rng, (b,)))


@dataclass(frozen=True)
class Shifted(Times):
    """Another distribution, shifted towards noise by ``factor`` > 1."""

    base: Times = Uniform()
    factor: float = 1.0

    def sample(self, rng: Key[Array, ""] | UInt32[Array, "2"], b: int) -> Float[Array, " b"]:
        return shift(self.base.sample(rng, b), self.factor)
