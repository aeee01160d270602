"""MM-DiT: the transformer of the decoder and the upsampler.

Image tokens and text tokens keep weights of their own and meet in one attention; time and the pooled condition shift,
scale and gate every layer of both streams (Esser et al., https://arxiv.org/abs/2403.03206, section 4 and figure 2;
adaLN-zero of Peebles & Xie, https://arxiv.org/abs/2212.09748). It computes what diffusers' ``SD3Transformer2DModel``
does.

    model = MMDiT(patch=2, in_channels=16, out_channels=16, width=256, depth=8, heads=4)
    velocity = model.apply(params, latent, time, context, pooled)      # [b,h,w,c], [b], [b,l,d], [b,e] -> [b,h,w,c]
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from t2i_jax.models.attention import attention, check_heads
from t2i_jax.models.dense import Dense, Heads
from t2i_jax.models.remat import INNER, OUTER, QKV, Remat
from t2i_jax.models.time import MLP, sinusoid
from t2i_jax.types import Embedding, Features, Latent, Time

FREQUENCIES = 256
Stream = Float[Array, "b n d"]
TextStream = Float[Array, "b l d"]
Vector = Float[Array, "b d"]


class MMDiT(nn.Module):
    """``grid``: side of the table of positions, in patches; smaller latents use its centre.

    ``context_width`` and ``pooled_width`` are the widths of what the caller gives. ``qk_norm`` normalises queries and
    keys by their root mean square. ``remat``: what of a block the backward pass computes again.
    """

    patch: int = 1
    in_channels: int = 16
    out_channels: int = 16
    width: int = 256
    depth: int = 8
    heads: int = 4
    context_width: int = 256
    pooled_width: int = 256
    grid: int = 8
    qk_norm: bool = True
    dtype: str = "float32"
    remat: Remat = Remat()
    unroll: int = 1

    def __post_init__(self):
        check_heads("MMDiT", self.width, self.heads)
        if self.width % 4 or self.depth < 2:
            raise ValueError(f"MMDiT: width={self.width} must be a multiple of 4 and depth={self.depth} at least 2")
        super().__post_init__()

    @nn.compact
    def __call__(self, latent: Latent, time: Time, context: Features, pooled: Embedding) -> Float[Array, "b h w o"]:
        """Output [b,h,w,out_channels], float32; ``time`` [b] in [0, 1].

        Raises ValueError where the patch does not divide the latent, the latent is larger than the grid, or a condition
        has another width than the fields say.
        """
        b, h, w, c = latent.shape
        p = self.patch
        if h % p or w % p or c != self.in_channels or max(h, w) > p * self.grid:
            raise ValueError(
                f"MMDiT: latent {h}x{w}x{c} with patch={p}, in_channels={self.in_channels}, grid={self.grid}: sides "
                f"must be multiples of patch and at most patch*grid, channels equal to in_channels"
            )
        given = {"context_width": context.shape[-1], "pooled_width": pooled.shape[-1]}
        if wrong := [f"{name}={getattr(self, name)}" for name, size in given.items() if size != getattr(self, name)]:
            raise ValueError(f"MMDiT: {', '.join(wrong)}, but its conditions have {given}; they must agree")
        dense = partial(Dense, dtype=self.dtype)
        x = dense(self.width, name="patches")(rearrange(latent, "b (h p) (w q) c -> b (h w) (p q c)", p=p, q=p))
        x = x + positions(self.width, self.grid, h // p, w // p).astype(x.dtype)
        text = dense(self.width, name="context")(context)
        condition = MLP(self.width, self.dtype, name="time")(sinusoid(1000.0 * time, FREQUENCIES))
        condition = jax.nn.silu(condition + MLP(self.width, self.dtype, name="pooled")(pooled))

        fields = (self.width, self.heads, self.qk_norm, self.dtype)
        layers = nn.scan(
            lambda module, carry, given: (module(*carry, given), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.depth - 1,
            unroll=min(self.unroll, self.depth - 1),
        )
        (x, text), _ = layers(self.remat(JointBlock)(*fields, name="blocks"), (x, text), condition)
        x, _ = self.remat(JointBlock)(*fields, last=True, name="last")(x, text, condition)

        scale, shift = jnp.split(zeros(2 * self.width, self.dtype, "modulation", few=True)(condition), 2, axis=-1)
        x = zeros(p * p * self.out_channels, self.dtype, "out")(modulate(x, shift, scale, self.dtype))
        x = rearrange(x, "b (h w) (p q c) -> b (h p) (w q) c", h=h // p, p=p, q=p)
        return x.astype(jnp.float32)


class JointBlock(nn.Module):
    """One layer of both streams. The ``last`` one only reads the text."""

    width: int
    heads: int
    qk_norm: bool
    dtype: str = "float32"
    last: bool = False

    @nn.compact
    def __call__(self, x: Stream, text: TextStream, condition: Vector) -> tuple[Stream, TextStream]:
        d, dtype = self.width, self.dtype
        dense = partial(Dense, dtype=dtype)
        conditioned = lambda parts, name: zeros(parts * d, dtype, name, few=True)(condition)
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(conditioned(6, "modulation"), 6, -1)
        given = conditioned(2 if self.last else 6, "context_modulation")
        if self.last:
            context_scale1, context_shift1 = jnp.split(given, 2, -1)
        else:
            context_shift1, context_scale1, context_gate1, *context_mlp = jnp.split(given, 6, -1)

        n = x.shape[1]
        images = self.heads_of(modulate(x, shift1, scale1, dtype), "")
        texts = self.heads_of(modulate(text, context_shift1, context_scale1, dtype), "context_")
        mixed = attention(*(jnp.concatenate(pair, axis=1) for pair in zip(images, texts, strict=True)))

        x = x + gate1[:, None] * checkpoint_name(dense(d, name="attention_out", inputs=2)(mixed[:, :n]), OUTER)
        x = x + gate2[:, None] * self.mlp(modulate(x, shift2, scale2, dtype), "")
        if self.last:
            return x, text
        shift, scale, gate = context_mlp
        added = checkpoint_name(dense(d, name="context_attention_out", inputs=2)(mixed[:, n:]), OUTER)
        text = text + context_gate1[:, None] * added
        return x, text + gate[:, None] * self.mlp(modulate(text, shift, scale, dtype), "context_")

    def heads_of(self, x: Stream, stream: str) -> tuple[Array, Array, Array]:
        """Queries, keys and values [b, n, heads, d]; queries and keys normalised where asked."""
        q, k, v = checkpoint_name(Heads(self.heads, self.dtype, name=f"{stream}qkv")(x), QKV)
        if self.qk_norm:
            q = nn.RMSNorm(epsilon=1e-6, dtype=self.dtype, name=f"{stream}norm_q")(q)
            k = nn.RMSNorm(epsilon=1e-6, dtype=self.dtype, name=f"{stream}norm_k")(k)
        return q, k, v

    def mlp(self, x: Stream, stream: str) -> Stream:
        inner = Dense(4 * self.width, dtype=self.dtype, name=f"{stream}fc1")(x)
        inner = jax.nn.gelu(checkpoint_name(inner, INNER), approximate=True)
        return checkpoint_name(Dense(self.width, dtype=self.dtype, name=f"{stream}fc2")(inner), OUTER)


def zeros(features: int, dtype: str, name: str, few: bool = False) -> Dense:
    """A dense layer that starts at zero: a fresh network adds nothing (adaLN-zero)."""
    return Dense(features, dtype=dtype, name=name, kernel_init=nn.initializers.zeros_init(), few=few)


def modulate(x: Stream, shift: Vector, scale: Vector, dtype: str) -> Stream:
    """``normalised(x) (1 + scale) + shift`` with a layer norm that has no parameters, statistics in float32."""
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    variance = jnp.square(wide - mean).mean(-1, keepdims=True)
    normalised = ((wide - mean) * jax.lax.rsqrt(variance + 1e-6)).astype(dtype)
    return normalised * (1 + scale[:, None]) + shift[:, None]


def positions(width: int, grid: int, h: int, w: int) -> Float[Array, "n d"]:
    """Sinusoids of column and row for the central h x w patches of a grid x grid table: [h*w, width]."""
    table = position_table(width, grid).reshape(grid, grid, width)
    top, left = (grid - h) // 2, (grid - w) // 2
    return jnp.asarray(table[top : top + h, left : left + w].reshape(h * w, width))


def position_table(width: int, grid: int) -> np.ndarray:
    """[grid*grid, width] float32: the first half encodes the column, the second the row, sines before cosines."""
    frequency = 10000.0 ** -(np.arange(width // 4) / (width / 4))
    angle = np.arange(grid)[:, None] * frequency
    line = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    columns = np.broadcast_to(line[None], (grid, grid, width // 2))
    rows = np.broadcast_to(line[:, None], (grid, grid, width // 2))
    return np.concatenate([columns, rows], axis=-1).reshape(grid * grid, width).astype(np.float32)
