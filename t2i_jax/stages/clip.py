"""CLIP as a stage: a caption and its picture end near each other in one embedding space.

Symmetric cross-entropy over the similarities of the global batch (Radford et al., https://arxiv.org/abs/2103.00020,
figure 3), or a sigmoid for each pair on its own (Zhai et al., https://arxiv.org/abs/2303.15343, equation 1).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from t2i_jax.models.clip import CLIP, TextTower, VisionTower
from t2i_jax.models.dense import by_batch, divides
from t2i_jax.stages.base import Stage
from t2i_jax.stages.parts import by_parts
from t2i_jax.types import BATCH_AXES, Batch, Embedding, Image, Params, normalize

MATRIX = 1 << 28
"""Bytes of similarities that a device holds at once at most."""


@dataclass(frozen=True)
class Contrastive:
    """A loss over the similarities [b, b] of all pictures with all captions, of which a device holds some rows."""

    both_ways: ClassVar[bool]
    """Whether captions pick pictures too, as pictures pick captions."""

    def row(self, logits: Float[Array, "r b"]) -> Float[Array, "r"]:
        """What a row of similarities adds to the loss, whichever of them is the true one."""
        raise NotImplementedError

    def true(self, logit: Float[Array, "b"], mean: Float[Array, "b"]) -> Float[Array, "b"]:
        """What is taken off for the true similarity and for the mean of the row."""
        raise NotImplementedError

    def __call__(
        self, images: Embedding, texts: Embedding, scale: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Int[Array, "b"]]:
        """The loss of unit embeddings, and for each picture the caption of the batch that is nearest."""
        pairs = [(images, texts), (texts, images)] if self.both_ways else [(images, texts)]
        losses, nearest = [], []
        for one, other in pairs:
            best = lambda logits, places: (self.row(logits), places[logits.argmax(-1)])
            rows, near = by_rows(best, scale * one, other)
            own = scale * (one * other).sum(-1)
            losses.append((rows - self.true(own, scale * one @ other.mean(0))).mean())
            nearest.append(near)
        return sum(losses) / len(losses), nearest[0]


@dataclass(frozen=True)
class Softmax(Contrastive):
    """Each picture picks its caption among the batch, each caption its picture."""

    both_ways: ClassVar[bool] = True
    smoothing: float = 0.0
    """Share of the target spread over the whole batch: captions such as "whale" fit several pictures of it."""

    def row(self, logits: Float[Array, "r b"]) -> Float[Array, "r"]:
        return jax.nn.logsumexp(logits, axis=-1)

    def true(self, logit: Float[Array, "b"], mean: Float[Array, "b"]) -> Float[Array, "b"]:
        return (1.0 - self.smoothing) * logit + self.smoothing * mean


@dataclass(frozen=True)
class Sigmoid(Contrastive):
    """Each pair is judged alone; ``bias`` starts the prior at one match in a large batch."""

    both_ways: ClassVar[bool] = False
    bias: float = -10.0

    def row(self, logits: Float[Array, "r b"]) -> Float[Array, "r"]:
        return jax.nn.softplus(logits + self.bias).sum(-1)

    def true(self, logit: Float[Array, "b"], mean: Float[Array, "b"]) -> Float[Array, "b"]:
        return logit + self.bias  # softplus(x) - x = softplus(-x): what the true pair adds


def by_rows(reduce: Callable, rows: Embedding, columns: Embedding):
    """``reduce(rows @ columns.T, places)``, what it makes of each row, without ever holding the whole product.

    ``places`` [c]: which of the columns each column of the product is. A device multiplies its share of the rows, and
    of those no more at once than take MATRIX bytes with all columns; the backward pass multiplies again.
    """
    places = jnp.arange(len(columns))
    if not divides(BATCH_AXES, len(rows)):
        return _product(reduce, rows, columns, places)
    split = PartitionSpec(BATCH_AXES)
    own = lambda rows, columns, places: _product(reduce, rows, _gathered(columns), _gathered(places))
    return jax.shard_map(own, in_specs=split, out_specs=split, check_vma=False)(rows, columns, places)


def _product(reduce: Callable, rows: Embedding, columns: Float[Array, "c e"], places: Int[Array, "c"]):
    return by_parts(lambda part: reduce(by_batch(part) @ columns.T, places), rows, MATRIX // (4 * len(columns)))


def _gathered(own: Array) -> Array:
    """Every device's columns, gathered axis by axis, so that their gradients are scattered: over all axes at once TPUs'
    compiler sums them whole, and every chip waits. Over replicas first: among them are slices, with a slow network."""
    for axis in BATCH_AXES:
        own = jax.lax.all_gather(own, axis, tiled=True)
    return own


@dataclass(frozen=True)
class ClipStage(Stage):
    """Trains ``CLIP`` on pictures and captions; ``params`` are the model's own."""

    name: ClassVar[str] = "clip"
    whole: ClassVar[bool] = True
    model: CLIP = CLIP(TextTower(), VisionTower(), 256)
    objective: Contrastive = Softmax()
    shift: int = 4
    """Pictures are moved by up to so many pixels, edges repeated: small sets are learnt by heart otherwise."""
    largest_scale: float = 100.0
    """Limit of the learnt factor on the cosine, as in the paper."""

    def init(self, rng: Array, batch: Batch) -> Params:
        return self.model.init(rng, normalize(batch["image"][:1]), batch["tokens"][:1])["params"]

    def vocabulary(self) -> int:
        return self.model.text.vocab

    def loss(self, params: Params, frozen: dict, rng: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
        image = moved(rng, normalize(batch["image"]), self.shift)
        images, texts, scale = self.model.apply({"params": params}, image, batch["tokens"])
        scale = jnp.minimum(jnp.exp(scale), self.largest_scale)
        loss, nearest = self.objective(cosine(images), cosine(texts), scale)
        return loss, {"accuracy": (nearest == jnp.arange(len(nearest))).mean(), "logit_scale": scale}

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
