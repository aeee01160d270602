"""The pre-norm transformer that serves the text tower, the vision tower and the prior.

``x += out(attention(norm1(x)))``, ``x += fc2(act(fc1(norm2(x))))`` (Vaswani et al. with the norms moved inside, as in
GPT-2 and ViT). The layers are one ``nn.scan``: the program does not grow with depth, and parameters carry a leading
depth axis.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from t2i_jax.models.attention import attention, check_heads
from t2i_jax.models.dense import Dense, Heads
from t2i_jax.models.remat import INNER, OUTER, QKV, Remat

Stream = Float[Array, "b l d"]
Visible = Bool[Array, "b l"]

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
    causal: bool = False

    @nn.compact
    def __call__(self, x: Stream, visible: Visible | None) -> Stream:
        dense = partial(Dense, dtype=self.dtype)
        norm = lambda name: nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=name)
        qkv = checkpoint_name(Heads(self.heads, self.dtype, name="qkv")(norm("norm1")(x)), QKV)
        mixed = attention(*qkv, causal=self.causal, visible=visible)
        x = x + checkpoint_name(dense(self.width, name="out", inputs=2)(mixed), OUTER)
        inner = checkpoint_name(dense(self.mlp, name="fc1")(norm("norm2")(x)), INNER)
        return x + dense(self.width, name="fc2")(ACTIVATIONS[self.activation](inner))


class Transformer(nn.Module):
    """``depth`` blocks; ``causal`` ones let a place look at itself and what stands before it.

    ``remat``: what of a block the backward pass computes again; ``unroll`` blocks make one scan step.
    """

    width: int
    depth: int
    heads: int
    mlp: int
    activation: str = "gelu"
    dtype: str = "float32"
    remat: Remat = Remat()
    unroll: int = 1
    causal: bool = False

    def __post_init__(self):
        check_heads("Transformer", self.width, self.heads)
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"Transformer: activation={self.activation!r}; there are: {', '.join(ACTIVATIONS)}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Stream, visible: Visible | None = None) -> Stream:
        layers = nn.scan(
            lambda module, carry, seen: (module(carry, seen), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.depth,
            unroll=min(self.unroll, self.depth),
        )
        fields = (self.width, self.heads, self.mlp, self.activation, self.dtype, self.causal)
        return layers(self.remat(Block)(*fields, name="blocks"), x.astype(self.dtype), visible)[0]
