"""CLIP: a text tower and a vision tower that embed captions and pictures in one space.

Radford et al., https://arxiv.org/abs/2103.00020, section 2.4: a causal text transformer read at its end mark, a vision
transformer (Dosovitskiy et al., https://arxiv.org/abs/2010.11929) read at its class token, each followed by a linear
projection without bias. The same function as transformers' ``CLIPModel``.

    clip = CLIP(TextTower(vocab=2048), VisionTower(image_size=64), embedding=256)
    features, text = clip.apply(params, tokens, method="encode_text")      # [b, l, d], [b, e]
    image = clip.apply(params, picture, method="encode_image")             # [b, e]
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from t2i_jax.models.attention import check_heads
from t2i_jax.models.dense import Dense, divides
from t2i_jax.models.remat import Remat
from t2i_jax.models.transformer import Transformer
from t2i_jax.types import BATCH_AXES, Embedding, Features, Image, Tokens


def look_up(table: Float[Array, "v d"], tokens: Tokens, dtype: str) -> Float[Array, "b l d"]:
    """The table's rows at ``tokens``, rounded to ``dtype``. They are float32, so that the sums of their gradient are.

    On a mesh that splits both, the table is gathered in ``dtype`` and its gradient scattered. Left to itself, TPUs'
    compiler gathers float32 and sums the whole gradient over all chips.
    """
    rows = lambda table, tokens: table.astype(jnp.float32)[tokens]
    shard = BATCH_AXES[1]
    if not (divides(BATCH_AXES, len(tokens)) and divides((shard,), len(table))):
        return rows(table.astype(dtype), tokens)
    own = lambda table, tokens: rows(jax.lax.all_gather(table.astype(dtype), shard, tiled=True), tokens)
    table_spec, batch_spec = PartitionSpec(shard), PartitionSpec(BATCH_AXES)
    return jax.shard_map(own, in_specs=(table_spec, batch_spec), out_specs=batch_spec, check_vma=False)(table, tokens)


class TextTower(nn.Module):
    """Tokens to features after the last norm. ``eos`` marks the token that stands for the whole caption."""

    vocab: int = 2048
    context: int = 16
    width: int = 256
    depth: int = 4
    heads: int = 4
    mlp_ratio: int = 4
    activation: str = "gelu"
    eos: int = 1
    pad: int = 0
    dtype: str = "float32"
    remat: Remat = Remat()
    unroll: int = 1

    def __post_init__(self):
        check_heads("TextTower", self.width, self.heads)
        super().__post_init__()

    @nn.compact
    def __call__(self, tokens: Tokens) -> Features:
        length = tokens.shape[1]
        if length > self.context:
            raise ValueError(f"TextTower: {length} tokens with context={self.context}; cut captions or raise context")
        table = self.param("token", nn.initializers.normal(0.02), (self.vocab, self.width), jnp.float32)
        place = self.param("position", nn.initializers.normal(0.01), (self.context, self.width), jnp.float32)
        x = look_up(table, tokens, self.dtype) + place[:length]
        mlp = self.mlp_ratio * self.width
        sizes = (self.width, self.depth, self.heads, mlp, self.activation, self.dtype, self.remat, self.unroll)
        x = Transformer(*sizes, causal=True, name="transformer")(x)
        return nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(x)


class VisionTower(nn.Module):
    """Pictures to the class token's feature, normalised."""

    image_size: int = 64
    patch: int = 8
    width: int = 256
    depth: int = 4
    heads: int = 4
    mlp_ratio: int = 4
    activation: str = "gelu"
    dtype: str = "float32"
    remat: Remat = Remat()
    unroll: int = 1

    def __post_init__(self):
        check_heads("VisionTower", self.width, self.heads)
        if self.image_size % self.patch:
            raise ValueError(
                f"VisionTower: patch={self.patch} does not divide image_size={self.image_size}; choose one that does"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, image: Image) -> Float[Array, "b d"]:
        if image.shape[1:3] != (self.image_size, self.image_size):
            raise ValueError(f"VisionTower: picture {image.shape[1]}x{image.shape[2]} for image_size={self.image_size}")
        p = self.patch
        patches = rearrange(image, "b (h p) (w q) c -> b (h w) (p q c)", p=p, q=p)
        x = Dense(self.width, use_bias=False, dtype=self.dtype, name="patches")(patches)
        cls = self.param("class", nn.initializers.normal(self.width**-0.5), (self.width,), jnp.float32)
        place = self.param("position", nn.initializers.normal(0.02), (x.shape[1] + 1, self.width), jnp.float32)
        x = jnp.concatenate([jnp.broadcast_to(cls.astype(x.dtype), (x.shape[0], 1, self.width)), x], axis=1) + place
        x = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm_in")(x)
        mlp = self.mlp_ratio * self.width
        sizes = (self.width, self.depth, self.heads, mlp, self.activation, self.dtype, self.remat, self.unroll)
        x = Transformer(*sizes, name="transformer")(x)
        return nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm_out")(x[:, 0])


class CLIP(nn.Module):
    """Both towers with their projections to ``embedding`` and the learnt log of the similarity's scale."""

    text: TextTower
    vision: VisionTower
    embedding: int = 256

    def setup(self):
        self.text_tower = self.text.copy()
        self.vision_tower = self.vision.copy()
        self.text_projection = Dense(self.embedding, use_bias=False, dtype=self.text.dtype)
        self.vision_projection = Dense(self.embedding, use_bias=False, dtype=self.vision.dtype)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(math.log(1 / 0.07)), ())

    def encode_text(self, tokens: Tokens) -> tuple[Features, Embedding]:
        """Token features after the last norm [b,l,d] and the projected feature of the first eos [b,e], float32."""
        features = self.text_tower(tokens).astype(jnp.float32)
        end = (tokens == self.text.eos).argmax(-1)
        whole = jnp.take_along_axis(features, end[:, None, None], axis=1)[:, 0]
        return features, self.text_projection(whole).astype(jnp.float32)

    def encode_image(self, image: Image) -> Embedding:
        """Projected class token [b,e], float32, not normalised."""
        return self.vision_projection(self.vision_tower(image)).astype(jnp.float32)

    def __call__(self, image: Image, tokens: Tokens) -> tuple[Embedding, Embedding, Array]:
        """Image embeddings, text embeddings, log of the scale."""
        return self.encode_image(image), self.encode_text(tokens)[1], self.logit_scale
