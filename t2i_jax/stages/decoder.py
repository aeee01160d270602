"""The decoder as a stage: from an image embedding and a caption's tokens to the latents of a small picture.

An MM-DiT (Esser et al., https://arxiv.org/abs/2403.03206) whose context is the caption's words as CLIP's text tower
embeds them, before its layers mix them: the decoder's own layers read the caption (DALL-E 2's decoder,
https://arxiv.org/abs/2204.06125, section 2.1, has a text transformer of its own too). Features of a whole caption stand
for one training picture, and a small decoder learns those by heart; words it has seen in other captions. Its pooled
condition is the image embedding and, beside it, the mean of the words, so that a word like "flat" shifts and scales
every layer in the same direction whatever else the caption says. Image and text are dropped at random and
independently, for guidance (Ho & Salimans, https://arxiv.org/abs/2207.12598).
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t2i_jax.diffusion.guidance import Guidance
from t2i_jax.diffusion.process import Process, Velocity
from t2i_jax.diffusion.samplers import Heun, Sampler
from t2i_jax.diffusion.schedules import Flow
from t2i_jax.diffusion.times import LogitNormal, Times
from t2i_jax.models.clip import CLIP, TextTower, VisionTower
from t2i_jax.models.mmdit import MMDiT
from t2i_jax.models.vae import AutoencoderKL
from t2i_jax.stages.base import Features, Stage
from t2i_jax.stages.embeddings import bag_of_words, image_embedding, keep, word_embedding
from t2i_jax.stages.flow import flow_loss, vae_params
from t2i_jax.stages.latents import decode, downscale, encode
from t2i_jax.stages.prior import clip_params
from t2i_jax.types import Batch, Embedding, Latent, Params
from t2i_jax.types import Features as Words


@dataclass(frozen=True)
class DecoderStage(Stage):
    """Trains ``MMDiT`` to paint pictures ``factor`` times smaller than the data's, as normalised VAE latents.

    The model's ``context_width`` is the width of ``clip.text``, its ``pooled_width`` that and ``clip.embedding``.
    """

    name: ClassVar[str] = "decoder"
    reads: ClassVar[tuple[str, ...]] = ("vae", "clip")
    model: MMDiT = MMDiT(pooled_width=512)
    vae: AutoencoderKL = AutoencoderKL()
    clip: CLIP = CLIP(TextTower(), VisionTower(), 256)
    factor: int = 2
    """How much smaller than the data its pictures are; the upsampler makes up for it."""
    process: Process = Process(Flow(), Velocity())
    times: Times = LogitNormal()
    drop_image: float = 0.1
    """Share of the examples that lose the image embedding."""
    drop_text: float = 0.1
    """Share of the examples that lose the caption."""
    embedding_noise: float = 0.0
    """Standard deviation of noise on the image embedding in training: the prior's draws are not exact either."""
    sampler: Sampler = Heun(16)
    guidance: Guidance = Guidance(3.0)
    """How far the pictures go for the condition; for the caption alone where ``image_guidance`` is set."""
    image_guidance: float | None = None
    """How far they go for what the image embedding adds to the caption, which takes a third evaluation a step. The
    prior's draws are less exact than the embeddings of training: words deserve more trust. None: as ``guidance``."""

    def init(self, rng: Array, batch: Batch) -> Params:
        c = self.vae.latent_channels
        side = self.model.patch * 2
        context = jnp.zeros((1, batch["tokens"].shape[1], self.clip.text.width))
        pooled = jnp.zeros((1, self.clip.embedding + self.clip.text.width))
        return self.model.init(rng, jnp.zeros((1, side, side, c)), jnp.zeros(1), context, pooled)["params"]

    def vocabulary(self) -> int:
        return self.clip.text.vocab

    def expects(self, rng: Array, batch: Batch) -> dict[str, Params]:
        return {"clip": clip_params(self.clip, rng, batch), "vae": vae_params(self.vae, rng)}

    def image_features(self, frozen: dict, image: Array) -> Features:
        return {
            "latent": encode(self.vae, frozen["vae"], downscale(image, self.factor)),
            "image_embedding": image_embedding(self.clip, frozen["clip"], image),
        }

    def text_features(self, frozen: dict, tokens: Array) -> Features:
        words = word_embedding(self.clip, frozen["clip"], tokens)
        return {"words": words, "bag": bag_of_words(self.clip, words, tokens)}

    def loss(self, params: Params, frozen: dict, rng: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
        keys = jax.random.split(rng, 4)
        clean, image = batch["latent"], batch["image_embedding"]
        b = clean.shape[0]
        image = image + self.embedding_noise * jax.random.normal(keys[0], image.shape)
        image = image * keep(keys[1], b, self.drop_image)[:, None]
        kept = keep(keys[2], b, self.drop_text)[:, None]
        network = self.network(params, image, batch["words"] * kept[..., None], batch["bag"] * kept)
        return flow_loss(network, self.process, self.times, keys[3], clean), {}

    def network(self, params: Params, image: Embedding, words: Words, bag: Float[Array, "b d"]):
        """(x_t, t) -> the model's output for these image embeddings, words and means of words; zeros hide them."""
        pooled = jnp.concatenate([image, bag], axis=-1)
        return lambda x, t: self.model.apply({"params": params}, x, t, words, pooled)

    def sample(self, params: Params, rng: Array, condition: Batch, side: int) -> Latent:
        """Latents [b,side,side,c] for ``image_embedding`` [b,e], ``words`` [b,l,d] and their ``bag`` [b,d]."""
        image, words, bag = condition["image_embedding"], condition["words"], condition["bag"]
        noise = jax.random.normal(rng, (len(image), side, side, self.vae.latent_channels))
        null = jax.tree.map(jnp.zeros_like, (image, words, bag))

        def denoise(x: Latent, t: Array, given: tuple[Embedding, Words, Array]) -> Latent:
            return self.process.denoiser(self.network(params, *given))(x, t)

        if self.image_guidance is None:
            guided = self.guidance.paired(denoise, (image, words, bag), null)
        else:
            caption = jnp.zeros_like(image), words, bag
            guided = self.guidance.parted(denoise, (image, words, bag), caption, null, self.image_guidance)
        return self.sampler(guided, noise, self.process.schedule, rng)

    def preview(self, params: Params, frozen: dict, rng: Array, batch: Batch) -> Array:
        """The true small pictures as the VAE decodes them, then samples for the same captions and embeddings."""
        drawn = self.sample(params, rng, batch, batch["latent"].shape[1])
        return decode(self.vae, frozen["vae"], jnp.concatenate([batch["latent"], drawn]))
