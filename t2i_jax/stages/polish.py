"""The polish as a stage: a VAE decoder that makes crisp pictures, also of latents that are a little wrong.

A VAE that is trained for the mean error blurs what it is not sure of, and it is not sure of painted latents, which are
never quite those of a picture. Here its decoder alone learns on: it sees latents with noise (Yang et al., "Latent
Denoising Makes Good Visual Tokenizers", https://arxiv.org/abs/2507.15856) and has to please a patch discriminator that
learns beside it (Esser et al., https://arxiv.org/abs/2012.09841). The encoder stays as it is, and with it every stage
that reads its latents; so this one can be trained at any time after the VAE, and again.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from t2i_jax.models.discriminator import PatchDiscriminator, hinge
from t2i_jax.stages.base import Stage
from t2i_jax.stages.flow import vae_params
from t2i_jax.stages.latents import decode, encode, random_crops
from t2i_jax.stages.vae import VAEStage
from t2i_jax.types import Batch, Image, Params, normalize


@dataclass(frozen=True)
class PolishStage(Stage):
    """Trains ``{"decoder": what is added to the weights of the VAE's decoder, "adversary"}``."""

    name: ClassVar[str] = "polish"
    reads: ClassVar[tuple[str, ...]] = ("vae",)
    vae: VAEStage = VAEStage()
    """Whose decoder, and what it takes for an error."""
    crop: int = 32
    """Side of the crops that it learns from, in pixels; 0, or the picture's side, takes whole pictures."""
    noise: float = 0.7
    """Largest standard deviation of the noise on the normalised latents."""
    clean: float = 0.3
    """Share of the examples without noise."""
    adversary: PatchDiscriminator = PatchDiscriminator()
    weight: float = 2.0
    """Norm of the adversary's gradient on the picture, as share of the norm of the error's, once it tells all."""

    def init(self, rng: Array, batch: Batch) -> Params:
        image = normalize(batch["image"][:1])
        decoder = vae_params(self.vae.model, rng)["model"]["decoder"]
        adversary = self.adversary.init(rng, image)["params"]
        return {"decoder": jax.tree.map(jnp.zeros_like, decoder), "adversary": adversary}

    def expects(self, rng: Array, batch: Batch) -> dict[str, Params]:
        return {"vae": vae_params(self.vae.model, rng)}

    def loss(self, params: Params, frozen: dict, rng: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
        keys = jax.random.split(rng, 4)
        pixels = batch["image"]
        if 0 < self.crop < min(pixels.shape[1:3]):
            pixels = random_crops(keys[0], pixels, self.crop, self.crop)
        image, vae = normalize(pixels), polished(frozen["vae"], params)
        latent = encode(self.vae.model, vae, pixels)
        b = len(latent)
        level = self.noise * jax.random.uniform(keys[1], (b, 1, 1, 1))
        level *= jax.random.bernoulli(keys[2], 1.0 - self.clean, (b, 1, 1, 1))
        out = decode(self.vae.model, vae, latent + level * jax.random.normal(keys[3], latent.shape), clip=False)
        error, metrics = self.vae.error(out, image)
        contest, own = self.contest(params["adversary"], out, image)
        return error + contest, metrics | {"adversary": own}

    def contest(self, adversary: Params, out: Image, image: Image) -> tuple[Array, Array]:
        """What adversary and decoder gain from each other: a loss for both, and the adversary's own part of it.

        The picture is drawn along the adversary's gradient, scaled to ``weight`` times the error's (as Esser et al.,
        equation 7, but on the picture itself) and by how much of the truth the adversary tells: one that tells nothing
        apart has no say.
        """
        judge = lambda x: self.adversary.apply({"params": adversary}, x)
        still = jax.lax.stop_gradient(out)
        own = hinge(judge(image), judge(still))
        pull = jax.grad(lambda x: -judge(x).mean())(still)
        against = jax.grad(lambda x: self.vae.error(x, image)[0])(still)
        say = self.weight * jax.nn.relu(1.0 - own / 2.0)
        pull *= say * jnp.linalg.norm(against) / (jnp.linalg.norm(pull) + 1e-12)
        return own + (jax.lax.stop_gradient(pull) * (out - still)).sum(), own

    def preview(self, params: Params, frozen: dict, rng: Array, batch: Batch) -> Array:
        """The pictures, then what VAE and polished VAE make of their latents with half of the noise."""
        latent = encode(self.vae.model, frozen["vae"], batch["image"])
        latent += 0.5 * self.noise * jax.random.normal(rng, latent.shape)
        both = [decode(self.vae.model, vae, latent) for vae in (frozen["vae"], polished(frozen["vae"], params))]
        return jnp.concatenate([normalize(batch["image"]), *both])


def polished(vae: Params, polish: Params) -> Params:
    """The VAE's parameters with the polish on its decoder."""
    decoder = jax.tree.map(jnp.add, vae["model"]["decoder"], polish["decoder"])
    return vae | {"model": vae["model"] | {"decoder": decoder}}
