"""The diffusion prior as a stage: from a caption's embedding to an image embedding.

A transformer reads [token features, text embedding, time, noised image embedding, query] and predicts the clean image
embedding with a mean squared error (Ramesh et al., https://arxiv.org/abs/2204.06125, section 2.2). When sampling, two
candidates are drawn and the one with the larger dot product with the text embedding is kept.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from t2i_jax.diffusion.guidance import Guidance
from t2i_jax.diffusion.process import Clean, Process, Unweighted
from t2i_jax.diffusion.samplers import DPMSolverPP, Sampler
from t2i_jax.diffusion.schedules import Cosine
from t2i_jax.diffusion.times import Times, Uniform
from t2i_jax.models.clip import CLIP, TextTower, VisionTower
from t2i_jax.models.prior import PriorTransformer
from t2i_jax.stages.base import Features, Stage
from t2i_jax.stages.embeddings import image_embedding, keep, text_embedding, unit
from t2i_jax.types import Batch, Embedding, Params


@dataclass(frozen=True)
class PriorStage(Stage):
    """Trains ``PriorTransformer`` on the embeddings of a frozen CLIP (all scaled to norm sqrt(e))."""

    name: ClassVar[str] = "prior"
    reads: ClassVar[tuple[str, ...]] = ("clip",)
    model: PriorTransformer = PriorTransformer()
    clip: CLIP = CLIP(TextTower(), VisionTower(), 256)
    process: Process = Process(Cosine(), Clean())
    times: Times = Uniform()
    drop_text: float = 0.1
    """Share of the examples that lose the caption, for guidance."""
    sampler: Sampler = DPMSolverPP(16)
    guidance: Guidance = Guidance(1.5)
    candidates: int = 2
    """Embeddings drawn for each caption; the one closest to the text is kept."""

    def init(self, rng: Array, batch: Batch) -> Params:
        e = self.clip.embedding
        one, features = jnp.zeros((1, e)), jnp.zeros((1, batch["tokens"].shape[1], self.clip.text.width))
        mask = jnp.ones((1, features.shape[1]), bool)
        return self.model.init(rng, one, jnp.zeros(1), one, features, mask)["params"]

    def vocabulary(self) -> int:
        return self.clip.text.vocab

    def expects(self, rng: Array, batch: Batch) -> dict[str, Params]:
        return {"clip": clip_params(self.clip, rng, batch)}

    def image_features(self, frozen: dict, image: Array) -> Features:
        return {"image_embedding": image_embedding(self.clip, frozen["clip"], image)}

    def text_features(self, frozen: dict, tokens: Array) -> Features:
        features, embedding = text_embedding(self.clip, frozen["clip"], tokens)
        return {"text_features": features, "text_embedding": embedding}

    def loss(self, params: Params, frozen: dict, rng: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
        if type(self.process.prediction) is not Clean or type(self.process.weighting) is not Unweighted:
            raise ValueError(
                f"PriorStage: the prior predicts the clean embedding with equal weights (Clean, Unweighted), not "
                f"{self.process.prediction} with {self.process.weighting}"
            )
        clean = batch["image_embedding"]
        b = clean.shape[0]
        keys = jax.random.split(rng, 3)
        t = self.times.sample(keys[0], b)
        noisy = self.process.corrupt(clean, jax.random.normal(keys[1], clean.shape), t)
        kept = keep(keys[2], b, self.drop_text)
        predicted = self.predict(params, noisy, t, batch, kept)
        loss = jnp.square(predicted - clean).mean()
        near = (unit(predicted) * unit(clean)).mean(-1).mean()
        return loss, {"cosine": near, "norm": jnp.square(predicted).mean() ** 0.5}

    def predict(self, params: Params, noisy: Embedding, t: Array, condition: Batch, kept: Array) -> Embedding:
        """The clean embedding; ``kept`` [b] is 0 where the caption is hidden."""
        mask = condition["tokens"] != self.clip.text.pad
        text = condition["text_embedding"] * kept[:, None]
        features = condition["text_features"] * kept[:, None, None]
        return self.model.apply({"params": params}, noisy, 1000.0 * t, text, features, mask)

    def sample(self, params: Params, rng: Array, condition: Batch) -> Embedding:
        """Image embeddings [b,e] of norm sqrt(e) for tokens, text_embedding [b,e], text_features [b,l,d]."""
        return unit(self.draw(params, rng, condition))

    def draw(self, params: Params, rng: Array, condition: Batch) -> Embedding:
        """``sample`` as the network leaves it, not scaled: one that has learnt its scale draws norms of sqrt(e)."""
        condition = {k: condition[k] for k in ("tokens", "text_embedding", "text_features")}
        wide = jax.tree.map(lambda x: jnp.repeat(x, self.candidates, axis=0), condition)
        rows = wide["tokens"].shape[0]
        noise = jax.random.normal(rng, (rows, self.clip.embedding))
        guided = self.guidance.paired(
            lambda x, t, kept: self.predict(params, x, t, doubled(wide, len(x)), kept), jnp.ones(rows), jnp.zeros(rows)
        )
        drawn = self.sampler(guided, noise, self.process.schedule, rng)
        score = (unit(drawn) * wide["text_embedding"]).mean(-1).reshape(-1, self.candidates)
        drawn = drawn.reshape(-1, self.candidates, drawn.shape[-1])
        return jnp.take_along_axis(drawn, score.argmax(-1)[:, None, None], axis=1)[:, 0]

    def preview(self, params: Params, frozen: dict, rng: Array, batch: Batch) -> Array:
        """One row of cells a caption: the drawn embedding's cosine with every picture of the batch (white is 1)."""
        near = self.sample(params, rng, batch) @ unit(batch["image_embedding"]).T / self.clip.embedding
        cells = jnp.repeat(near[:, None, :], near.shape[0], axis=1)
        return jnp.broadcast_to(jnp.clip(2.0 * cells - 1.0, -1.0, 1.0)[..., None], (*cells.shape, 3))


def clip_params(clip: CLIP, rng: Array, batch: Batch) -> Params:
    """CLIP's own parameters for tokens of this length (for their shapes)."""
    size = clip.vision.image_size
    return clip.init(rng, jnp.zeros((1, size, size, 3)), batch["tokens"][:1])["params"]


def doubled(condition: Batch, rows: int) -> Batch:
    """The condition's rows repeated to ``rows``: guidance runs both predictions as one batch."""
    return jax.tree.map(lambda x: jnp.concatenate([x] * (rows // len(x))), condition)
