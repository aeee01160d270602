"""The KL autoencoder as a stage: pictures to latents and back.

Loss: L1 + squared error + a multi-scale gradient term + a small KL term (Kingma & Welling,
https://arxiv.org/abs/1312.6114; Rombach et al., https://arxiv.org/abs/2112.10752). A batch is seen at two scales:
random crops of the picture at its size, and the whole picture made ``factor`` times smaller, because the decoder stage
paints small pictures that the same VAE must decode.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from t2i_jax.models.vae import AutoencoderKL
from t2i_jax.stages.base import Stage
from t2i_jax.stages.latents import downscale, random_crops
from t2i_jax.types import Batch, Image, Params, normalize


@dataclass(frozen=True)
class VAEStage(Stage):
    """Trains ``AutoencoderKL`` on pictures; ``params = {"model", "mean" [c], "std" [c]}``."""

    name: ClassVar[str] = "vae"
    model: AutoencoderKL = AutoencoderKL()
    factor: int = 2
    """How much smaller the decoder's pictures are than the upsampler's."""
    crop: int = 32
    """Side of the crops that the loss sees, in pixels; 0 takes whole pictures."""
    squared: float = 1.0
    """Weight of the squared error beside L1."""
    gradient: float = 0.5
    """Weight of the L1 distance between the pictures' differences along rows and columns (keeps edges sharp)."""
    kl: float = 1e-6
    """Weight of the KL divergence, summed over a latent and averaged over the batch."""

    def init(self, rng: Array, batch: Batch) -> Params:
        model = self.model.init(rng, normalize(batch["image"][:1]))["params"]
        c = self.model.latent_channels
        return {"model": model, "mean": jnp.zeros(c), "std": jnp.ones(c)}

    def loss(self, params: Params, frozen: dict, rng: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
        crops, sample = jax.random.split(rng)
        image = self.views(crops, batch["image"])
        out, mean, logvar = self.model.apply({"params": params["model"]}, image, sample)
        error, metrics = self.error(out, image)
        kl = 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar).sum((1, 2, 3)).mean()
        return error + self.kl * kl, metrics | {"kl": kl, "latent_std": mean.std()}

    def error(self, out: Image, image: Image) -> tuple[Array, dict[str, Array]]:
        """How far reconstructions are from their pictures, and what of it to report."""
        error = out - image
        absolute, squared = jnp.abs(error).mean(), jnp.square(error).mean()
        edges = jnp.abs(jnp.diff(error, axis=1)).mean() + jnp.abs(jnp.diff(error, axis=2)).mean()
        loss = absolute + self.squared * squared + self.gradient * edges
        return loss, {"l1": absolute, "psnr": -10.0 * jnp.log10(squared / 4.0)}

    def views(self, rng: Array, pixels: Array) -> Image:
        """Every second picture as a crop at full size, the others ``factor`` times smaller, all ``crop`` wide; of
        pictures that are no squares, all ``factor`` times smaller a side. Raises ValueError for a side that the model
        could not halve once the picture is ``factor`` times smaller: ``finish`` would meet it after the last step."""
        b, h, w, _ = pixels.shape
        whole = self.factor * self.model.factor
        if h % whole or w % whole:
            raise ValueError(
                f"VAEStage: pictures of {h}x{w}: both sides must be multiples of {whole}, which is factor "
                f"{self.factor} times the model's {self.model.factor}"
            )
        if not self.crop or self.crop >= max(h, w):
            return normalize(pixels)
        if h == w and self.crop * self.factor != h:
            raise ValueError(
                f"VAEStage: crop {self.crop} times factor {self.factor} is not the side of a picture of {h}x{w}; "
                f"set crop to {h // self.factor} or to 0"
            )
        cut, small = random_crops(rng, pixels, h // self.factor, w // self.factor), downscale(pixels, self.factor)
        # every second one, and not the batch's first half, for that lives on half of the devices; of an odd number (a
        # micro-batch may be one) either kind begins as often as the other
        first = jax.random.bernoulli(jax.random.fold_in(rng, 1)).astype(int) if b % 2 else 0
        return normalize(jnp.where((first + jnp.arange(b))[:, None, None, None] % 2 == 0, cut, small))

    def preview(self, params: Params, frozen: dict, rng: Array, batch: Batch) -> Array:
        """The pictures, then their reconstructions."""
        image = normalize(batch["image"])
        out, _, _ = self.model.apply({"params": params["model"]}, image)
        return jnp.clip(jnp.concatenate([image, out]), -1.0, 1.0)

    def finish(self, params: Params, frozen: dict, batches: Iterator[Batch]) -> Params:
        """Measures the latents' mean and standard deviation per channel over 16 batches, both scales alike."""

        @jax.jit
        def moments(model: Params, pixels: Array) -> tuple[Array, Array]:
            flat = [encode_flat(self.model, model, x) for x in (pixels, downscale(pixels, self.factor))]
            return sum(x.mean(0) for x in flat) / 2, sum(jnp.square(x).mean(0) for x in flat) / 2

        # Read before the next batch goes in: on a mesh, two programs with collectives must not be under way at once.
        measured = [jax.device_get(moments(params["model"], batch["image"])) for _, batch in zip(range(16), batches)]
        mean, square = (sum(values) / len(measured) for values in zip(*measured))
        return params | {"mean": jnp.asarray(mean), "std": jnp.sqrt(jnp.maximum(square - mean**2, 1e-8))}


def encode_flat(model: AutoencoderKL, params: Params, pixels: Array) -> Array:
    """Every latent of the pictures, not normalised: [b*h*w, c]."""
    return model.apply({"params": params}, normalize(pixels), method="encode")[0].reshape(-1, model.latent_channels)
