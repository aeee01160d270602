"""The corruption process: how x_t is made, what the network says about it, and how its error is weighed.

With ``x_t = alpha x0 + sigma noise`` known, each of x0, noise and ``v = p noise - q x0`` gives the two others:

    noise = (x_t - alpha x0) / sigma
    x0    = (x_t - sigma noise) / alpha
    x0    = p x_t - sigma v                  because alpha p + sigma q = 1

All three are affine in x0, so an error e of x0 is an error ``-(alpha/sigma) e`` of the noise and ``-(1/sigma) e`` of v,
and every loss is a weight w(t) on ``|e|^2`` (Salimans & Ho 2022, section 4; Kingma & Gao 2023, table 1).
``Process(Flow(), Clean(), LossIn(Velocity()))`` is the network that predicts x0 and is scored in v:
``w = 1 / max(t, 0.05)^2`` (Li & He 2025, "Back to Basics: Let Denoising Generative Models Denoise").

    process = Process(Flow(), Velocity())
    x_t = process.corrupt(x0, noise, t)
    loss = process.loss(network(x_t, t), x0, noise, t).mean()
    denoiser = process.denoiser(network)     # what samplers and guidance take
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from t2i_jax.diffusion.schedules import Flow, Schedule

Data = Float[Array, "b ..."]
TimeOf = Float[Array, " b"]
Denoiser = Callable[[Data, TimeOf], Data]


def over(values: TimeOf, x: Data) -> Array:
    """[b] reshaped so that it broadcasts over the other dimensions of x."""
    return values.reshape(values.shape + (1,) * (x.ndim - 1))


@dataclass(frozen=True)
class Prediction:
    """What the network's output means. ``target`` is what it should be; ``to_clean`` reads x0 from it."""

    def target(self, schedule: Schedule, x0: Data, noise: Data, t: TimeOf) -> Data:
        """The right output for this example, [b, ...]."""
        raise NotImplementedError

    def to_clean(self, schedule: Schedule, output: Data, x_t: Data, t: TimeOf) -> Data:
        """The x0 that the output implies, [b, ...]."""
        raise NotImplementedError

    def from_clean(self, schedule: Schedule, x0: Data, x_t: Data, t: TimeOf) -> Data:
        """The output that implies this x0 at x_t: the inverse of ``to_clean``; needs t > 0 (sigma > 0)."""
        noise = (x_t - over(schedule.alpha(t), x_t) * x0) / over(schedule.sigma(t), x_t)
        return self.target(schedule, x0, noise, t)

    def square(self, alpha: TimeOf, sigma: TimeOf) -> TimeOf:
        """``(d output / d x0)^2`` at fixed x_t: the weight on ``|e|^2`` of a plain loss in this space."""
        raise NotImplementedError


@dataclass(frozen=True)
class Clean(Prediction):
    """The network predicts x0."""

    def target(self, schedule: Schedule, x0: Data, noise: Data, t: TimeOf) -> Data:
        return x0

    def to_clean(self, schedule: Schedule, output: Data, x_t: Data, t: TimeOf) -> Data:
        return output

    def square(self, alpha: TimeOf, sigma: TimeOf) -> TimeOf:
        return jnp.ones_like(alpha)


@dataclass(frozen=True)
class Noise(Prediction):
    """The network predicts the noise (Ho et al. 2020). x0 is read with alpha not below ``floor``: at pure noise it
    holds no information about x0."""

    floor: float = 1e-3

    def target(self, schedule: Schedule, x0: Data, noise: Data, t: TimeOf) -> Data:
        return noise

    def to_clean(self, schedule: Schedule, output: Data, x_t: Data, t: TimeOf) -> Data:
        return (x_t - over(schedule.sigma(t), x_t) * output) / over(jnp.maximum(schedule.alpha(t), self.floor), x_t)

    def square(self, alpha: TimeOf, sigma: TimeOf) -> TimeOf:
        return (alpha / sigma) ** 2


@dataclass(frozen=True)
class Velocity(Prediction):
    """The network predicts ``v = p noise - q x0`` of the schedule: ``noise - x0`` for ``Flow``,
    ``alpha noise - sigma x0`` for variance-preserving ones."""

    def target(self, schedule: Schedule, x0: Data, noise: Data, t: TimeOf) -> Data:
        p, q = schedule.velocity(t)
        return over(p, x0) * noise - over(q, x0) * x0

    def to_clean(self, schedule: Schedule, output: Data, x_t: Data, t: TimeOf) -> Data:
        p, _ = schedule.velocity(t)
        return over(p, x_t) * x_t - over(schedule.sigma(t), x_t) * output

    def square(self, alpha: TimeOf, sigma: TimeOf) -> TimeOf:
        return 1.0 / sigma**2


@dataclass(frozen=True)
class Unweighted:
    """Plain mean squared error of the network's own output: weight 1."""

    def weight(self, prediction: Prediction, schedule: Schedule, t: TimeOf) -> TimeOf:
        """Factor [b] on the squared error of the network's output."""
        return jnp.ones_like(t)


@dataclass(frozen=True)
class LossIn(Unweighted):
    """Mean squared error in another space than the one predicted, with alpha and sigma not below ``floor``, so that
    the weight stays bounded (400 for ``LossIn(Velocity())`` on ``Clean()``)."""

    space: Prediction = Velocity()
    floor: float = 0.05

    def weight(self, prediction: Prediction, schedule: Schedule, t: TimeOf) -> TimeOf:
        alpha, sigma = jnp.maximum(schedule.alpha(t), self.floor), jnp.maximum(schedule.sigma(t), self.floor)
        return self.space.square(alpha, sigma) / prediction.square(alpha, sigma)


@dataclass(frozen=True)
class MinSNR(Unweighted):
    """``min(SNR, gamma)`` on the error of x0 (Hang et al. 2023, "Efficient Diffusion Training via Min-SNR", eq. 4)."""

    gamma: float = 5.0
    floor: float = 0.05

    def weight(self, prediction: Prediction, schedule: Schedule, t: TimeOf) -> TimeOf:
        alpha, sigma = jnp.maximum(schedule.alpha(t), self.floor), jnp.maximum(schedule.sigma(t), self.floor)
        return jnp.minimum((alpha / sigma) ** 2, self.gamma) / prediction.square(alpha, sigma)


@dataclass(frozen=True)
class Process:
    """A schedule, what the network predicts under it, and the weight of its error."""

    schedule: Schedule = Flow()
    prediction: Prediction = Velocity()
    weighting: Unweighted = Unweighted()

    def corrupt(self, x0: Data, noise: Data, t: TimeOf) -> Data:
        """``alpha(t) x0 + sigma(t) noise``, one time an example."""
        return over(self.schedule.alpha(t), x0) * x0 + over(self.schedule.sigma(t), x0) * noise

    def target(self, x0: Data, noise: Data, t: TimeOf) -> Data:
        """The right output of the network, [b, ...]."""
        return self.prediction.target(self.schedule, x0, noise, t)

    def to_clean(self, output: Data, x_t: Data, t: TimeOf) -> Data:
        """The x0 that the network's output implies, [b, ...]."""
        return self.prediction.to_clean(self.schedule, output, x_t, t)

    def to_noise(self, output: Data, x_t: Data, t: TimeOf) -> Data:
        """The noise that the network's output implies, [b, ...]; needs t > 0."""
        x0 = self.to_clean(output, x_t, t)
        return (x_t - over(self.schedule.alpha(t), x_t) * x0) / over(self.schedule.sigma(t), x_t)

    def loss(self, output: Data, x0: Data, noise: Data, t: TimeOf) -> Float[Array, " b"]:
        """Weighted mean squared error of each example, in float32, [b]."""
        error = output.astype(jnp.float32) - self.target(x0, noise, t).astype(jnp.float32)
        mean = jnp.mean(error**2, axis=tuple(range(1, error.ndim)))
        return self.weighting.weight(self.prediction, self.schedule, t) * mean

    def denoiser(self, network: Denoiser) -> Denoiser:
        """The network ``(x_t, t) -> output`` as a denoiser ``(x_t, t) -> x0``, the form samplers take."""
        return lambda x_t, t: self.to_clean(network(x_t, t), x_t, t)
