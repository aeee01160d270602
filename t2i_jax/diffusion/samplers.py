"""Samplers: from noise to data with a denoiser ``(x_t, t) -> x0``. Each is one ``lax.scan`` that traces it once.

**The probability-flow ODE in x0 form** (``Euler``, ``Heun``). Divide ``x_t = alpha x0 + sigma noise`` by
``alpha + sigma`` and call ``u = sigma / (alpha + sigma)``: then ``z = (1 - u) x0 + u noise``, so every schedule is
the straight path of ``Flow`` seen through a change of scale and clock. With D(z, u) the denoiser, the ODE is

    dz/du = E[noise - x0 | z] = (z - D(z, u)) / u

(Song et al. 2021, eq. 13, in these variables; Lipman et al. 2023, eq. 23; the change of variables is that of Karras
et al. 2022, eq. 4, with a scale that stays finite at both ends). ``Euler`` on it is DDIM with eta = 0, for every
schedule: ``z_s = (s/u) z + (1 - s/u) D``, and a step to u = 0 returns D itself. ``Heun`` is Karras et al.'s
algorithm 1: average the slopes of both ends of a step, except of the last one, whose far end has u = 0.

**DDIM** (Song et al. 2020, eq. 12 and 16), written for any schedule. With ``r = alpha_t sigma_s / (alpha_s sigma_t)``,

    x_s = alpha_s D + sqrt(sigma_s^2 - w^2) noise_hat + w fresh noise,   w = eta sigma_s sqrt(1 - r^2)

eta = 0 is deterministic, eta = 1 draws from the posterior of the process (ancestral sampling).

**DPM-Solver++ (2M)** (Lu et al. 2022, algorithm 2). With ``lambda = log(alpha / sigma)`` and step
``h = lambda_s - lambda_t``,

    x_s = (sigma_s / sigma_t) x_t + alpha_s (1 - e^-h) D',   D' = D + (h / 2 h_previous) (D - D_previous)

where ``alpha_s (1 - e^-h) = alpha_s - alpha_t sigma_s / sigma_t`` is finite at both ends of the time axis. Steps that
touch an end with infinite lambda are first order.

The time grid is uniform in the schedule's t from 1 to 0, or shifted towards noise by ``shift`` (see ``times.shift``).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt32

from t2i_jax.diffusion.process import Data, Denoiser
from t2i_jax.diffusion.schedules import Schedule
from t2i_jax.diffusion.times import shift

Rng = Key[Array, ""] | UInt32[Array, "2"]


@dataclass(frozen=True)
class Sampler:
    """Base of all samplers: ``steps`` steps on a grid shifted by ``shift``."""

    steps: int = 24
    shift: float = 1.0

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"{type(self).__name__} needs steps >= 1, got {self.steps}")
        if self.shift <= 0:
            raise ValueError(f"{type(self).__name__} needs shift > 0, got {self.shift}")

    @property
    def evaluations(self) -> int:
        """How often the denoiser runs for one sample."""
        return self.steps

    def grid(self) -> Float[Array, " points"]:
        """The times from 1 to 0, steps + 1 of them."""
        return shift(jnp.linspace(1.0, 0.0, self.steps + 1), self.shift)

    def __call__(self, denoiser: Denoiser, noise: Data, schedule: Schedule, rng: Rng | None = None) -> Data:
        """x0 [b, ...] from standard normal noise of the same shape. ``rng`` only for samplers that draw fresh noise."""
        raise NotImplementedError


@dataclass(frozen=True)
class Euler(Sampler):
    """First-order solver of the flow ODE: one evaluation a step."""

    def __call__(self, denoiser: Denoiser, noise: Data, schedule: Schedule, rng: Rng | None = None) -> Data:
        t = self.grid()
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)

        def step(x, at):
            t, keep, gain = at
            clean = denoiser(x, jnp.full(x.shape[0], t)).astype(x.dtype)
            return (keep * x + gain * clean).astype(x.dtype), None

        keep = sigma[1:] / sigma[:-1]
        return jax.lax.scan(step, noise, (t[:-1], keep, alpha[1:] - alpha[:-1] * keep))[0]


@dataclass(frozen=True)
class Heun(Sampler):
    """Second-order solver of the flow ODE: two evaluations a step, one in the last.

    Predictor and corrector alternate in one scan over evaluations, so the denoiser is compiled once.
    """

    @property
    def evaluations(self) -> int:
        return 2 * self.steps - 1

    def __call__(self, denoiser: Denoiser, noise: Data, schedule: Schedule, rng: Rng | None = None) -> Data:
        t = self.grid()
        scale = schedule.alpha(t) + schedule.sigma(t)
        u = schedule.sigma(t) / scale
        evaluation = jnp.arange(self.evaluations)
        interval, point = evaluation // 2, (evaluation + 1) // 2

        def step(carry, at):
            z, start, first = carry
            t, u, scale, width, corrects = at
            clean = denoiser((scale * z).astype(z.dtype), jnp.full(z.shape[0], t)).astype(z.dtype)
            slope = (z - clean) / u
            # a predictor leaves from z itself, a corrector repeats the step from where the predictor left
            start = jnp.where(corrects, start, z)
            mean = jnp.where(corrects, 0.5 * (first + slope), slope)
            return ((start + width * mean).astype(z.dtype), start, slope.astype(z.dtype)), None

        z = (noise / scale[0]).astype(noise.dtype)
        at = (t[point], u[point], scale[point], (u[1:] - u[:-1])[interval], evaluation % 2 == 1)
        (z, _, _), _ = jax.lax.scan(step, (z, z, jnp.zeros_like(z)), at)
        return (z * scale[-1]).astype(noise.dtype)


@dataclass(frozen=True)
class DDIM(Sampler):
    """Denoising diffusion implicit model; ``eta`` 0 is deterministic, 1 ancestral and needs ``rng``."""

    eta: float = 0.0

    def __call__(self, denoiser: Denoiser, noise: Data, schedule: Schedule, rng: Rng | None = None) -> Data:
        if self.eta and rng is None:
            raise ValueError(f"DDIM with eta {self.eta} draws fresh noise: pass rng, or use eta=0")
        t = self.grid()
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        ratio = alpha[:-1] * sigma[1:] / (alpha[1:] * sigma[:-1])
        fresh = self.eta * sigma[1:] * jnp.sqrt(jnp.clip(1.0 - ratio**2, 0.0, 1.0))
        along = jnp.sqrt(jnp.clip(sigma[1:] ** 2 - fresh**2, 0.0, None))

        def step(x, at):
            index, t, alpha, sigma, target, along, fresh = at
            clean = denoiser(x, jnp.full(x.shape[0], t)).astype(x.dtype)
            new = target * clean + along * (x - alpha * clean) / sigma
            if self.eta:
                new = new + fresh * jax.random.normal(jax.random.fold_in(rng, index), x.shape)
            return new.astype(x.dtype), None

        at = (jnp.arange(self.steps), t[:-1], alpha[:-1], sigma[:-1], alpha[1:], along, fresh)
        return jax.lax.scan(step, noise, at)[0]


@dataclass(frozen=True)
class DPMSolverPP(Sampler):
    """DPM-Solver++ (2M): second order with one evaluation a step, from the previous step's estimate."""

    def __call__(self, denoiser: Denoiser, noise: Data, schedule: Schedule, rng: Rng | None = None) -> Data:
        t = self.grid()
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        h = jnp.diff(0.5 * schedule.log_snr(t))
        previous = jnp.concatenate([jnp.full(1, jnp.inf), h[:-1]])
        extra = jnp.where(jnp.isfinite(h) & jnp.isfinite(previous), 0.5 * h / previous, 0.0)
        keep = sigma[1:] / sigma[:-1]

        def step(carry, at):
            x, before = carry
            t, keep, gain, extra = at
            clean = denoiser(x, jnp.full(x.shape[0], t)).astype(x.dtype)
            ahead = clean + extra * (clean - before)
            return ((keep * x + gain * ahead).astype(x.dtype), clean), None

        at = (t[:-1], keep, alpha[1:] - alpha[:-1] * keep, extra)
        return jax.lax.scan(step, (noise, jnp.zeros_like(noise)), at)[0][0]
