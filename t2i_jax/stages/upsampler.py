"""The upsampler as a stage: the latents of a small picture to those of a larger one.

The small picture is decoded, enlarged and encoded, so that its latents lie where the large picture's do. The same
MM-DiT as the decoder then paints only what is missing, the difference of the two (Li et al., "SRDiff",
https://arxiv.org/abs/2104.14951), with the enlarged latents beside the noise on the channel axis. In training those
carry noise of a random level, so that the upsampler mends the decoder's errors instead of enlarging them (Ho et al.,
https://arxiv.org/abs/2106.15282, section 4). Its context is two tokens, image and text embedding: the style that a
caption asks for is in details that the small picture doesn't show.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t2i_jax.diffusion.process import Process, Velocity
from t2i_jax.diffusion.samplers import Heun, Sampler
from t2i_jax.diffusion.schedules import Flow
from t2i_jax.diffusion.times import LogitNormal, Times
from t2i_jax.models.clip import CLIP, TextTower, VisionTower
from t2i_jax.models.mmdit import MMDiT
from t2i_jax.models.vae import AutoencoderKL
from t2i_jax.stages.base import Features, Stage
from t2i_jax.stages.embeddings import image_embedding, keep, text_embedding
from t2i_jax.stages.flow import flow_loss, vae_params
from t2i_jax.stages.latents import PIXELS, decode, downscale, encode, encode_image, enlarge, enlarge_image
from t2i_jax.stages.parts import by_device
from t2i_jax.stages.prior import clip_params
from t2i_jax.types import Batch, Embedding, Latent, Params, normalize


@dataclass(frozen=True)
class UpsamplerStage(Stage):
    """Trains ``MMDiT`` with ``in_channels = 2 * latent_channels`` to enlarge latents ``factor`` times."""

    name: ClassVar[str] = "upsampler"
    reads: ClassVar[tuple[str, ...]] = ("vae", "clip")
    model: MMDiT = MMDiT()
    vae: AutoencoderKL = AutoencoderKL()
    clip: CLIP = CLIP(TextTower(), VisionTower(), 256)
    factor: int = 2
    """Side of the large picture over side of the small one."""
    process: Process = Process(Flow(), Velocity())
    times: Times = LogitNormal()
    blur: float = 0.3
    """Largest noise level (as time of the flow) on the enlarged latents in training."""
    drop_image: float = 0.1
    """Share of the examples that lose the image embedding."""
    drop_text: float = 0.1
    """Share of the examples that lose the text embedding."""
    sampler: Sampler = Heun(8)

    def init(self, rng: Array, batch: Batch) -> Params:
        side = self.model.patch * 2
        x = jnp.zeros((1, side, side, 2 * self.vae.latent_channels))
        pooled = jnp.zeros((1, self.clip.embedding))
        return self.model.init(rng, x, jnp.zeros(1), jnp.stack([pooled, pooled], 1), pooled)["params"]

    def vocabulary(self) -> int:
        return self.clip.text.vocab

    def expects(self, rng: Array, batch: Batch) -> dict[str, Params]:
        return {"clip": clip_params(self.clip, rng, batch), "vae": vae_params(self.vae, rng)}

    def image_features(self, frozen: dict, image: Array) -> Features:
        vae = frozen["vae"]
        alone = image.shape[1] * image.shape[2] >= PIXELS  # a device encodes one picture at a time
        latents = by_device(self._latents, vae, image, self.vae.dtype) if alone else self._latents(vae, image)
        return latents | {"image_embedding": image_embedding(self.clip, frozen["clip"], image)}

    def _latents(self, params: Params, image: Array) -> Features:
        vae = self.vae
        small = encode(vae, params, downscale(image, self.factor))
        pair = jnp.stack([normalize(image), enlarge_image(vae, params, small, self.factor)])
        # one after the other: half the memory, and one program to compile for both
        latent, large = jax.lax.map(lambda x: encode_image(vae, params, x), pair)
        return {"latent": latent, "large": large}

    def enlarged(self, vae: Params, small: Latent) -> Float[Array, "b i j c"]:
        """What ``sample`` takes as ``large`` for the latents [b,h,w,c] of small pictures."""
        return enlarge(self.vae, vae, small, self.factor)

    def text_features(self, frozen: dict, tokens: Array) -> Features:
        return {"text_embedding": text_embedding(self.clip, frozen["clip"], tokens)[1]}

    def loss(self, params: Params, frozen: dict, rng: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
        keys = jax.random.split(rng, 5)
        large, pooled, text = batch["large"], batch["image_embedding"], batch["text_embedding"]
        b = large.shape[0]
        level = self.blur * jax.random.uniform(keys[0], (b,))
        large = self.process.corrupt(large, jax.random.normal(keys[1], large.shape), level)
        pooled = pooled * keep(keys[2], b, self.drop_image)[:, None]
        text = text * keep(keys[4], b, self.drop_text)[:, None]
        network = self.network(params, large, pooled, text)
        return flow_loss(network, self.process, self.times, keys[3], batch["latent"] - large), {}

    def network(self, params: Params, large: Latent, pooled: Embedding, text: Embedding):
        """(x_t, t) -> the model's output beside these enlarged latents, for these image and text embeddings."""
        context = jnp.stack([pooled, text], axis=1)

        def apply(x: Latent, t: Array) -> Latent:
            beside = jnp.concatenate([x, large], axis=-1)
            return self.model.apply({"params": params}, beside, t, context, pooled)

        return apply

    def sample(self, params: Params, rng: Array, condition: Batch) -> Latent:
        """Latents like ``large`` [b,h,w,c] (see ``enlarged``), for ``image_embedding`` and ``text_embedding`` [b,e]."""
        large, pooled, text = condition["large"], condition["image_embedding"], condition["text_embedding"]
        plain = self.process.denoiser(self.network(params, large, pooled, text))
        noise = jax.random.normal(rng, large.shape)
        return large + self.sampler(plain, noise, self.process.schedule, rng)

    def preview(self, params: Params, frozen: dict, rng: Array, batch: Batch) -> Array:
        """The true pictures as the VAE decodes them, then what the upsampler makes of their small versions."""
        drawn = self.sample(params, rng, batch)
        return decode(self.vae, frozen["vae"], jnp.concatenate([batch["latent"], drawn]))


@dataclass(frozen=True)
class SecondUpsamplerStage(UpsamplerStage):
    """The same, for what the first one has painted; its data are pictures as large as it paints."""

    name: ClassVar[str] = "upsampler2"
