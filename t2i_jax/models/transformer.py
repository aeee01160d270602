"""The pre-norm transformer that serves the text tower, the vision tower and the prior.

``x += out(attention(norm1(x)))``, ``x += fc2(act(fc1(norm2(x))))`` (Vaswani et al. with the norms moved inside, as in
GPT-2 and ViT). The layers are one ``nn.scan``: the program does not grow with depth, and parameters carry a leading
depth axis.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from t2i_jax.models.attention import attention, check_heads
from t2i_jax.models.dense import Dense

Stream = Float[Array, "b l d"]
Mask = Bool[Array, "#b 1 #l l"]

ACTIVATIONS: dict[str, Callable] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


class Block(nn.Module):
    """One layer; ``mlp`` is the inner width of the MLP."""

    width: int
    heads: int
    mlp: int
    activation: str = "gelu"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Stream, mask: Mask | None) -> Stream:
        dense = lambda features, name: Dense(features, dtype=self.dtype, name=name)
        norm = lambda name: nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=name)
        qkv = rearrange(dense(3 * self.width, "qkv")(norm("norm1")(x)), "b l (s k d) -> s b l k d", s=3, k=self.heads)
        mixed = attention(*qkv, mask)
        x = x + dense(self.width, "out")(rearrange(mixed, "b l k d -> b l (k d)"))
        inner = ACTIVATIONS[self.activation](dense(self.mlp, "fc1")(norm("norm2")(x)))
        return x + dense(self.width, "fc2")(inner)


class Transformer(nn.Module):
    """``depth`` blocks. ``remat`` recomputes a block in the backward pass; ``unroll`` blocks make one scan step."""

    width: int
    depth: int
    heads: int
    mlp: int
    activation: str = "gelu"
    dtype: str = "float32"
    remat: bool = False
    unroll: int = 1

    def __post_init__(self):
        check_heads("Transformer", self.width, self.heads)
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"Transformer: activation={self.activation!r}; there are: {', '.join(ACTIVATIONS)}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Stream, mask: Mask | None = None) -> Stream:
        block = nn.remat(Block, prevent_cse=False) if self.remat else Block
        layers = nn.scan(
            lambda module, carry, m: (module(carry, m), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.depth,
            unroll=min(self.unroll, self.depth),
        )
        one = block(self.width, self.heads, self.mlp, self.activation, self.dtype, name="blocks")
        return layers(one, x.astype(self.dtype), mask)[0]


def causal(length: int) -> Bool[Array, "1 1 l l"]:
    """True where a token may look: at itself and what stands before it."""
    return jnp.tril(jnp.ones((length, length), bool))[None, None]
