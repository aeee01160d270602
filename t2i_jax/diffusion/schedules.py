"""Noise schedules: alpha(t) and sigma(t) of the corruption ``x_t = alpha(t) x0 + sigma(t) noise``.

``t = 0`` is data and ``t = 1`` is noise, for every schedule. The log-SNR ``2 log(alpha / sigma)`` falls with t
(Kingma et al. 2021, "Variational Diffusion Models", eq. 3).

A schedule also fixes what "velocity" means, ``v = p(t) noise - q(t) x0`` with ``alpha p + sigma q = 1``:

- ``Flow`` takes the time derivative of its straight path, ``p = q = 1``
  (Lipman et al. 2023, eq. 20-23; Liu et al. 2023, "Rectified flow", eq. 1);
- variance-preserving schedules (``alpha^2 + sigma^2 = 1``) take the derivative by the angle ``atan(sigma / alpha)``,
  ``p = alpha, q = sigma`` (Salimans & Ho 2022, "Progressive Distillation", appendix D).

``alpha p + sigma q = 1`` is what makes ``(x_t, v) <-> (x0, noise)`` a rotation or shear that inverts without division.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

Times1 = Float[Array, "..."]


@dataclass(frozen=True)
class Schedule:
    """Base of all schedules. Subclasses give ``alpha`` and ``sigma``, both finite on [0, 1], sigma(0) = 0."""

    def alpha(self, t: Times1) -> Times1:
        """Factor of the data at time t."""
        raise NotImplementedError

    def sigma(self, t: Times1) -> Times1:
        """Factor of the noise at time t."""
        raise NotImplementedError

    def velocity(self, t: Times1) -> tuple[Times1, Times1]:
        """``(p, q)`` of ``v = p noise - q x0``; here those of a variance-preserving schedule."""
        return self.alpha(t), self.sigma(t)

    def log_snr(self, t: Times1) -> Times1:
        """``2 log(alpha / sigma)``: +inf where sigma = 0, -inf where alpha = 0."""
        return 2.0 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))


@dataclass(frozen=True)
class Flow(Schedule):
    """The straight path ``x_t = (1 - t) x0 + t noise`` of flow matching and rectified flow."""

    def alpha(self, t: Times1) -> Times1:
        return 1.0 - t

    def sigma(self, t: Times1) -> Times1:
        return t

    def velocity(self, t: Times1) -> tuple[Times1, Times1]:
        return jnp.ones_like(t), jnp.ones_like(t)


@dataclass(frozen=True)
class Cosine(Schedule):
    """``alpha = cos(a(t)) / cos(a(0))`` with ``a(t) = pi/2 (t + s)/(1 + s)`` (Nichol & Dhariwal 2021, eq. 17).

    sigma uses ``1 - cos^2 a / cos^2 b = sin(a - b) sin(a + b) / cos^2 b``, which stays exact near t = 0, where
    ``sqrt(1 - alpha^2)`` loses all digits of float32.
    """

    offset: float = 0.008

    def _angles(self, t: Times1) -> tuple[Times1, float]:
        start = 0.5 * math.pi * self.offset / (1.0 + self.offset)
        return start + 0.5 * math.pi * t / (1.0 + self.offset), start

    def alpha(self, t: Times1) -> Times1:
        angle, start = self._angles(t)
        # cos(pi/2) is a small negative number in float32
        return jnp.maximum(jnp.cos(angle), 0.0) / math.cos(start)

    def sigma(self, t: Times1) -> Times1:
        angle, start = self._angles(t)
        square = jnp.sin(angle - start) * jnp.sin(angle + start) / math.cos(start) ** 2
        return jnp.sqrt(jnp.clip(square, 0.0, 1.0))


@dataclass(frozen=True)
class LinearBeta(Schedule):
    """``beta(t) = low + t (high - low)``, ``alpha^2 = exp(-int_0^t beta)`` (Song et al. 2021, eq. 33).

    The continuous form of the 1,000-step linear schedule of Ho et al. 2020 (betas 1e-4 … 0.02, times 1,000).
    """

    low: float = 0.1
    high: float = 20.0

    def _integral(self, t: Times1) -> Times1:
        return self.low * t + 0.5 * (self.high - self.low) * t**2

    def alpha(self, t: Times1) -> Times1:
        return jnp.exp(-0.5 * self._integral(t))

    def sigma(self, t: Times1) -> Times1:
        return jnp.sqrt(-jnp.expm1(-self._integral(t)))
