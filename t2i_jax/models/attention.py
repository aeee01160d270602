"""Scaled dot-product attention, the one place where every transformer of the cascade mixes its tokens.

``softmax(q k^T / sqrt(d) + mask) v`` (Vaswani et al., https://arxiv.org/abs/1706.03762, equation 1); the softmax is in
float32 whatever the compute dtype.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def attention(
    q: Float[Array, "b q k d"],
    k: Float[Array, "b s k d"],
    v: Float[Array, "b s k d"],
    mask: Bool[Array, "#b #k #q #s"] | None = None,
) -> Float[Array, "b q k d"]:
    """Every query's weighted mean of the values; ``mask`` is True where a query may look."""
    logits = jnp.einsum("bqkd,bskd->bkqs", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, -1e30)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bkqs,bskd->bqkd", weights, v)


def check_heads(where: str, width: int, heads: int) -> None:
    """Raises ValueError where the width does not split into heads."""
    if heads < 1 or width % heads:
        raise ValueError(
            f"{where}: width={width} does not split into heads={heads}; choose heads among the divisors of width"
        )
