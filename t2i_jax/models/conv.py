"""Convolution and group normalisation in NHWC, as the autoencoder uses them.

``Conv`` is a 3x3 or 1x1 convolution with bias (cross-correlation, as everywhere in deep learning):
``y[i, j] = bias + sum_uv x[s*i + u - p, s*j + v - p] @ kernel[u, v]``. ``DoublingConv`` doubles the grid
before it convolves. ``GroupNorm`` is Wu & He 2018 (https://arxiv.org/abs/1803.08494), optionally followed by SiLU.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from t2i_jax.models.dense import add_bias, kernel_gradient

Padding = tuple[tuple[int, int], tuple[int, int]]


def convolve(x: Float[Array, "b h w c"], kernel: Float[Array, "u v c d"], stride: int, padding: Padding) -> Array:
    """``x`` [b, h, w, c] with ``kernel`` [u, v, c, d] -> [b, h', w', d]."""
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


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
        same = ((self.size // 2,) * 2,) * 2
        return biased(self, x, lambda x, kernel: convolve(x, kernel, self.stride, self.padding or same))


class DoublingConv(nn.Module):
    """Each place of the grid repeated 2 x 2, then a 3x3 convolution, computed without the enlarged grid."""

    features: int
    size: int = 3
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Array:
        return biased(self, x, convolve_doubled)


def biased(conv: Conv | DoublingConv, x: Array, apply: Callable[[Array, Array], Array]) -> Array:
    """``apply(x, kernel) + bias``, computed in the convolution's dtype, with its parameters."""
    shape = (conv.size, conv.size, x.shape[-1], conv.features)
    kernel = conv.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
    bias = conv.param("bias", nn.initializers.zeros_init(), (conv.features,), jnp.float32)
    dtype = jnp.dtype(conv.dtype)
    return add_bias(apply(x.astype(dtype), kernel.astype(dtype)), bias)


def convolve_doubled(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]) -> Array:
    """``convolve`` of x repeated 2 x 2, [b, 2h, 2w, d], with 4/9 of its products.

    Of three neighbouring rows of the enlarged grid two are the same row of x, so their kernels add up: an even row sees
    ``K0`` and ``K1 + K2``, an odd one ``K0 + K1`` and ``K2``; columns likewise. The four kinds of places are channels
    of one 2x2 convolution on the grid of x.
    """
    b, h, w, c = x.shape
    folded = fold(fold(kernel, 0), 2)  # [phase, 2, phase, 2, c, d]
    folded = folded.transpose(1, 3, 4, 0, 2, 5).reshape(2, 2, c, -1)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = convolve_small(padded, folded).reshape(b, h + 1, w + 1, 2, 2, -1)
    rows = jnp.stack([y[:, i : i + h, :, i] for i in (0, 1)], axis=2)  # [b, h, 2, w + 1, 2, d]
    both = jnp.stack([rows[:, :, :, j : j + w, j] for j in (0, 1)], axis=4)  # [b, h, 2, w, 2, d]
    return both.reshape(b, 2 * h, 2 * w, -1)


def fold(kernel: Array, axis: int) -> Array:
    """Three taps along ``axis`` to [phase, tap]: [[K0, K1 + K2], [K0 + K1, K2]], two axes in place of one."""
    first, second, third = jnp.split(kernel, 3, axis)
    even = jnp.concatenate([first, second + third], axis)
    odd = jnp.concatenate([first + second, third], axis)
    return jnp.stack([even, odd], axis)


@jax.custom_vjp
def convolve_small(x: Float[Array, "b h w c"], kernel: Float[Array, "u v c d"]) -> Array:
    """``convolve`` without padding; its kernel gradient is matrix products, where XLA makes a naive loop on a CPU."""
    return convolve(x, kernel, 1, ((0, 0), (0, 0)))


def _small_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve_small(x, kernel), (x, kernel)


def _small_backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    u, v, c, d = kernel.shape
    h, w = dy.shape[1:3]
    _, dx = jax.vjp(lambda x: convolve(x, kernel, 1, ((0, 0), (0, 0))), x)
    taps = [
        kernel_gradient(x[:, i : i + h, j : j + w].reshape(-1, c), dy.reshape(-1, d))
        for i in range(u)
        for j in range(v)
    ]
    return dx(dy)[0], jnp.stack(taps).reshape(kernel.shape)


convolve_small.defvjp(_small_forward, _small_backward)


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
