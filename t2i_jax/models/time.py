"""Times as vectors: sinusoids of geometrically spaced frequencies, then a small MLP.

``[cos(t w_i), sin(t w_i)]``, ``w_i = 10000^(-i / half)`` (Ho et al., https://arxiv.org/abs/2006.11239, after Vaswani et
al.), cosines first as in the reference models; in float32.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t2i_jax.models.dense import Dense
from t2i_jax.types import Time


def sinusoid(time: Time, width: int) -> Float[Array, "b d"]:
    """[b] to [b, width]; ``time`` in steps, 0 to 1000."""
    half = width // 2
    frequency = jnp.exp(-math.log(10000.0) / half * jnp.arange(half, dtype=jnp.float32))
    angle = time.astype(jnp.float32)[:, None] * frequency
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class MLP(nn.Module):
    """``fc2(silu(fc1(x)))`` to ``width``."""

    width: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b c"]) -> Float[Array, "b d"]:
        x = Dense(self.width, dtype=self.dtype, name="fc1")(x)
        return Dense(self.width, dtype=self.dtype, name="fc2")(jax.nn.silu(x))
