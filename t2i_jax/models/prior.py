"""The diffusion prior's network: from a caption to the clean image embedding.

A transformer over [token features, text embedding, time, noised image embedding, learnt query], causal where a mask is
given; the query's output is the prediction (Ramesh et al., https://arxiv.org/abs/2204.06125, section 2.2). The same
function as diffusers' ``PriorTransformer``.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool

from t2i_jax.models.attention import check_heads
from t2i_jax.models.dense import Dense
from t2i_jax.models.remat import Remat
from t2i_jax.models.time import MLP, sinusoid
from t2i_jax.models.transformer import Transformer
from t2i_jax.types import Embedding, Features, Time

EXTRA = 4
"""Tokens after the caption's: text embedding, time, noised embedding, query."""


class PriorTransformer(nn.Module):
    """``context``: caption tokens there is room for; ``text_width``: width of the token features."""

    embedding: int = 256
    width: int = 256
    depth: int = 4
    heads: int = 4
    context: int = 16
    text_width: int = 256
    dtype: str = "float32"
    remat: Remat = Remat()
    unroll: int = 1

    def __post_init__(self):
        check_heads("PriorTransformer", self.width, self.heads)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        noisy: Embedding,
        time: Time,
        text_embedding: Embedding,
        features: Features,
        mask: Bool[Array, "b l"] | None = None,
    ) -> Embedding:
        """Clean image embedding [b,e], float32.

        ``noisy`` and ``text_embedding`` [b,e], ``time`` [b] in steps (0 to 1000), ``features`` [b,context,text_width],
        ``mask`` [b,context] True at real tokens. With None every token looks at every other.
        """
        b, length, width = features.shape
        given = {"context": length, "text_width": width, "embedding": noisy.shape[-1]}
        if wrong := [f"{name}={getattr(self, name)}" for name, size in given.items() if size != getattr(self, name)]:
            raise ValueError(f"PriorTransformer: {', '.join(wrong)}, but what it is given has {given}; they must agree")
        dense = lambda name: Dense(self.width, dtype=self.dtype, name=name)
        query = self.param("query", nn.initializers.normal(0.02), (self.width,), jnp.float32)
        place = self.param("position", nn.initializers.normal(0.02), (length + EXTRA, self.width), jnp.float32)
        single = [
            dense("text_embedding")(text_embedding),
            MLP(self.width, self.dtype, name="time")(sinusoid(time, self.width)),
            dense("noisy")(noisy),
            jnp.broadcast_to(query.astype(self.dtype), (b, self.width)),
        ]
        x = jnp.concatenate([dense("features")(features), jnp.stack(single, axis=1)], axis=1) + place
        visible = None if mask is None else jnp.pad(mask, ((0, 0), (0, EXTRA)), constant_values=True)
        sizes = (self.width, self.depth, self.heads, 4 * self.width, "gelu", self.dtype, self.remat, self.unroll)
        x = Transformer(*sizes, causal=mask is not None, name="transformer")(x, visible)
        x = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(x[:, -1])
        return Dense(self.embedding, dtype=self.dtype, name="out")(x).astype(jnp.float32)
