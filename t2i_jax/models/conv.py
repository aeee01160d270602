"""Convolution and group normalisation in NHWC, as the autoencoder uses them.

``Conv`` is a 3x3 or 1x1 convolution with bias (cross-correlation, as everywhere in deep learning):
``y[i, j] = bias + sum_uv x[s*i + u - p, s*j + v - p] @ kernel[u, v]``. ``GroupNorm`` is Wu & He 2018
(https://arxiv.org/abs/1803.08494), optionally followed by SiLU.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]


def convolve(x: Float[Array, "b h w c"], kernel: Float[Array, "u v c d"], stride: int, padding: Padding) -> Array:
    """``x`` [b, h, w, c] with ``kernel`` [u, v, c, d] -> [b, h', w', d]."""
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


class Conv(nn.Module):
    """``size`` x ``size`` convolution to ``features`` channels with bias.

    ``padding`` is ((top, bottom), (left, right)); None keeps the size at stride 1.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: Padding | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        dtype = jnp.dtype(self.dtype)
        same = ((self.size // 2,) * 2,) * 2
        y = convolve(x.astype(dtype), kernel.astype(dtype), self.stride, self.padding or same)
        return y + bias.astype(dtype)


class GroupNorm(nn.Module):
    """Normalises each of ``groups`` runs of channels of each picture; statistics in float32; then SiLU if asked."""

    groups: int
    silu: bool = False
    epsilon: float = 1e-6
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Array:
        scale = self.param("scale", nn.initializers.ones_init(), (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (x.shape[-1],), jnp.float32)
        b, c = x.shape[0], x.shape[-1]
        wide = x.astype(jnp.float32)

        def mean(values: Array) -> Array:
            """Each group's mean at each of its channels, [b, 1, 1, c]."""
            # Over places first, channel by channel: a reduction over short runs of channels is slow on a CPU.
            means = values.mean((1, 2)).reshape(b, self.groups, -1).mean(-1, keepdims=True)
            return jnp.repeat(means, c // self.groups, axis=-1).reshape(b, 1, 1, c)

        centred = wide - mean(wide)
        y = centred * (lax.rsqrt(mean(jnp.square(centred)) + self.epsilon) * scale) + bias
        return (jax.nn.silu(y) if self.silu else y).astype(self.dtype)
