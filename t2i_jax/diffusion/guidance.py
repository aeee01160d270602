"""Classifier-free guidance (Ho & Salimans 2022, eq. 6), in x0 space.

``guided = unconditional + scale (conditional - unconditional)``. x0, noise and velocity are affine in one another with
the same coefficients for both predictions (see ``process``), so guiding x0 is guiding any of them. ``scale`` 1 is the
conditional model alone, 0 the unconditional one. ``interval`` guides only while t lies in it: at high noise guidance
shrinks variety and at low noise it does nothing (Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval").
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from t2i_jax.diffusion.process import Data, Denoiser, TimeOf, over


@dataclass(frozen=True)
class Guidance:
    """How far to go beyond the conditional prediction, and at which times ``low <= t <= high``."""

    scale: float | Array = 1.0
    """A number, or a scalar of a traced program."""
    interval: tuple[float, float] = (0.0, 1.0)

    @property
    def guides(self) -> bool:
        """Whether there is more to compute than the conditional prediction."""
        return isinstance(self.scale, Array) or self.scale != 1.0

    def mix(self, conditional: Data, unconditional: Data, t: TimeOf) -> Data:
        """The guided x0 from the two clean estimates, [b, ...]."""
        return unconditional + self._at(t, self.scale, conditional) * (conditional - unconditional)

    def _at(self, t: TimeOf, scale: float | Array, like: Data) -> Array:
        """``scale`` where ``t`` lies in the interval and 1 elsewhere, to be multiplied with ``like``."""
        low, high = self.interval
        return over(jnp.where((t >= low) & (t <= high), scale, 1.0), like).astype(like.dtype)

    def __call__(self, conditional: Denoiser, unconditional: Denoiser) -> Denoiser:
        """One denoiser from two; with scale 1 it is the conditional one and the other is never called."""
        if not self.guides:
            return conditional
        return lambda x_t, t: self.mix(conditional(x_t, t), unconditional(x_t, t), t)

    def paired(self, denoise: Callable[[Data, TimeOf, Any], Data], condition: Any, null: Any) -> Denoiser:
        """One denoiser that runs both predictions as one doubled batch.

        ``denoise(x_t, t, condition) -> x0``; ``condition`` and ``null`` are trees of the same structure whose leaves
        begin with the batch dimension.
        """
        if not self.guides:
            return lambda x_t, t: denoise(x_t, t, condition)
        predict = together(denoise, condition, null)
        return lambda x_t, t: self.mix(*predict(x_t, t), t)

    def parted(
        self, denoise: Callable[[Data, TimeOf, Any], Data], condition: Any, part: Any, null: Any, rest: float
    ) -> Denoiser:
        """One denoiser from three predictions, for a condition of two things that deserve unlike trust.

        ``guided = D(null) + scale (D(part) - D(null)) + rest (D(condition) - D(part))`` (Brooks et al. 2022,
        "InstructPix2Pix", https://arxiv.org/abs/2211.09800, eq. 3), where ``part`` is ``condition`` with one of the two
        things hidden. With ``rest`` equal to ``scale`` it is ``paired``; outside the interval, and everywhere with
        ``scale`` 1, it is the conditional model alone. The trees are as ``paired`` takes them, in a tripled batch.
        """
        if not self.guides:
            return lambda x_t, t: denoise(x_t, t, condition)
        predict = together(denoise, condition, part, null)

        def denoiser(x_t: Data, t: TimeOf) -> Data:
            conditional, partial, unconditional = predict(x_t, t)
            return self.mix(partial, unconditional, t) + self._at(t, rest, partial) * (conditional - partial)

        return denoiser


def together(denoise: Callable[[Data, TimeOf, Any], Data], *conditions: Any) -> Callable[[Data, TimeOf], list[Data]]:
    """(x_t, t) -> the clean estimate for each of the conditions, all in one batch so many times as large."""
    batch = lambda *parts: jnp.concatenate(parts)
    every, n = jax.tree.map(batch, *conditions), len(conditions)
    return lambda x_t, t: jnp.split(denoise(batch(*[x_t] * n), batch(*[t] * n), every), n)
