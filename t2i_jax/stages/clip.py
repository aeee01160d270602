"""CLIP as a stage: a caption and its picture end near each other in one embedding space.

Symmetric cross-entropy over the similarities of the global batch (Radford et al., https://arxiv.org/abs/2103.00020,
figure 3), or a sigmoid for each pair on its own (Zhai et al., https://arxiv.org/abs/2303.15343, equation 1).
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from t2i_jax.models.clip import CLIP, TextTower, VisionTower
from t2i_jax.stages.base import Stage
from t2i_jax.types import Batch, Embedding, Image, Params, normalize


@dataclass(frozen=True)
class Contrastive:
    """A loss over the similarities [b, b] of pictures (rows) and captions (columns), scaled by the temperature."""

    def __call__(self, logits: Array) -> Array:
        raise NotImplementedError


@dataclass(frozen=True)
class Softmax(Contrastive):
    """Each picture picks its caption among the batch, each caption its picture."""

    smoothing: float = 0.0
    """Share of the target spread over the whole batch: captions such as "whale" fit several pictures of it."""

    def __call__(self, logits: Array) -> Array:
        b = logits.shape[0]
        target = optax.smooth_labels(jnp.eye(b), self.smoothing)
        rows = optax.softmax_cross_entropy(logits, target).mean()
        return 0.5 * (rows + optax.softmax_cross_entropy(logits.T, target).mean())


@dataclass(frozen=True)
class Sigmoid(Contrastive):
    """Each pair is judged alone; ``bias`` starts the prior at one match in a large batch."""

    bias: float = -10.0

    def __call__(self, logits: Array) -> Array:
        sign = 2.0 * jnp.eye(logits.shape[0]) - 1.0
        return -jax.nn.log_sigmoid(sign * (logits + self.bias)).sum(-1).mean()


@dataclass(frozen=True)
class ClipStage(Stage):
    """Trains ``CLIP`` on pictures and captions; ``params`` are the model's own."""

    name: ClassVar[str] = "clip"
    model: CLIP = CLIP(TextTower(), VisionTower(), 256)
    objective: Contrastive = Softmax()
    shift: int = 4
    """Pictures are moved by up to so many pixels, edges repeated: small sets are learnt by heart otherwise."""
    largest_scale: float = 100.0
    """Limit of the learnt factor on the cosine, as in the paper."""

    def init(self, rng: Array, batch: Batch) -> Params:
        return self.model.init(rng, normalize(batch["image"][:1]), batch["tokens"][:1])["params"]

    def loss(self, params: Params, frozen: dict, rng: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
        image = moved(rng, normalize(batch["image"]), self.shift)
        images, texts, scale = self.model.apply({"params": params}, image, batch["tokens"])
        scale = jnp.minimum(jnp.exp(scale), self.largest_scale)
        logits = scale * cosine(images) @ cosine(texts).T
        loss = self.objective(logits)
        hits = (logits.argmax(-1) == jnp.arange(logits.shape[0])).mean()
        return loss, {"accuracy": hits, "logit_scale": scale}

    def preview(self, params: Params, frozen: dict, rng: Array, batch: Batch) -> Array:
        """For each caption the picture of the batch that CLIP thinks fits best."""
        images, texts, _ = self.model.apply({"params": params}, normalize(batch["image"]), batch["tokens"])
        return batch["image"][(cosine(texts) @ cosine(images).T).argmax(-1)]


def cosine(embedding: Embedding) -> Embedding:
    """Rows scaled to length 1, in float32."""
    embedding = embedding.astype(jnp.float32)
    return embedding / jnp.maximum(jnp.linalg.norm(embedding, axis=-1, keepdims=True), 1e-6)


def moved(rng: Array, image: Image, shift: int) -> Image:
    """Each picture moved by its own random whole number of pixels up to ``shift`` in both directions."""
    if not shift:
        return image
    b, h, w, c = image.shape
    padded = jnp.pad(image, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
    offsets = jax.random.randint(rng, (b, 2), 0, 2 * shift + 1)
    return jax.vmap(lambda x, o: jax.lax.dynamic_slice(x, (o[0], o[1], 0), (h, w, c)))(padded, offsets)
