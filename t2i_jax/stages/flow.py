"""Flow matching on latents: what the decoder's and the upsampler's losses share.

``x_t = (1 - t) x_0 + t noise``; the network's output is compared in the space that the process names (Lipman et al.,
https://arxiv.org/abs/2210.02747; logit-normal times of Esser et al., https://arxiv.org/abs/2403.03206, section 3.1).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from t2i_jax.diffusion.process import Process
from t2i_jax.diffusion.times import Times
from t2i_jax.models.vae import AutoencoderKL
from t2i_jax.types import Latent, Params

Network = Callable[[Latent, Array], Latent]
"""(x_t [b,h,w,c], t [b]) -> the network's raw output [b,h,w,c]."""


def flow_loss(network: Network, process: Process, times: Times, rng: Array, clean: Latent) -> Array:
    """Mean squared error between the network's output and the process's target at random times: a scalar.

    Raises ValueError where the network's output has another shape than ``clean``.
    """
    draw, hide = jax.random.split(rng)
    t = times.sample(draw, clean.shape[0])
    noise = jax.random.normal(hide, clean.shape)
    output = network(process.corrupt(clean, noise, t), t)
    if output.shape != clean.shape:
        raise ValueError(
            f"the network's output has {output.shape[-1]} channels, the VAE's latents {clean.shape[-1]}: set "
            "stage.model.out_channels to stage.vae.latent_channels"
        )
    return process.loss(output, clean, noise, t).mean()


def vae_params(vae: AutoencoderKL, rng: Array) -> Params:
    """A VAE stage's parameters (for their shapes)."""
    side = 2 * vae.factor
    c = vae.latent_channels
    model = vae.init(rng, jnp.zeros((1, side, side, 3)))["params"]
    return {"model": model, "mean": jnp.zeros(c), "std": jnp.ones(c)}
