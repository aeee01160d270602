"""Diffusion and flow matching as values and pure functions: no Flax, no parameters.

Time runs from ``t = 0`` (data) to ``t = 1`` (noise) everywhere. A ``Schedule`` knows alpha(t) and sigma(t) of
``x_t = alpha x0 + sigma noise``; a ``Process`` corrupts, names what the network predicts and weighs its error; a
sampler walks a denoiser (``(x_t, t) -> x0``) from noise to data; ``Guidance`` turns two denoisers into one.
"""

from t2i_jax.diffusion.guidance import Guidance
from t2i_jax.diffusion.process import Clean, LossIn, MinSNR, Noise, Process, Unweighted, Velocity
from t2i_jax.diffusion.samplers import DDIM, DPMSolverPP, Euler, Heun, Sampler
from t2i_jax.diffusion.schedules import Cosine, Flow, LinearBeta, Schedule
from t2i_jax.diffusion.times import LogitNormal, Shifted, Times, Uniform

__all__ = [
    "DDIM",
    "Clean",
    "Cosine",
    "DPMSolverPP",
    "Euler",
    "Flow",
    "Guidance",
    "Heun",
    "LinearBeta",
    "LogitNormal",
    "LossIn",
    "MinSNR",
    "Noise",
    "Process",
    "Sampler",
    "Schedule",
    "Shifted",
    "Times",
    "Uniform",
    "Unweighted",
    "Velocity",
]
