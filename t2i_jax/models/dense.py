"""The dense layer of every model: ``y = x @ kernel + bias``, with a gradient that is fast on a CPU too.

The gradient of the kernel is ``x^T dy``. XLA folds that transposition into the product and then, on a CPU, leaves the
fast matrix kernels; held apart from the product, the transposition costs one pass over x and the product runs at full
speed. Other backends read transposed operands for nothing and get the plain product.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


@jax.custom_vjp
def matmul(x: Float[Array, "*n i"], kernel: Float[Array, "i o"]) -> Float[Array, "*n o"]:
    """``x @ kernel`` over the last axis of x."""
    return x @ kernel


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    return dy @ kernel.T, kernel_gradient(x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1]))


def kernel_gradient(x: Float[Array, "n i"], dy: Float[Array, "n o"]) -> Float[Array, "i o"]:
    """``x^T dy``."""
    return lax.platform_dependent(x, dy, cpu=_apart, default=lambda x, dy: x.T @ dy)


def _apart(x: Float[Array, "n i"], dy: Float[Array, "n o"]) -> Float[Array, "i o"]:
    """``x^T dy`` with the narrower of the two transposed by itself."""
    alone = lambda a: lax.optimization_barrier(lax.optimization_barrier(a).T)
    if x.shape[1] <= dy.shape[1]:
        return alone(x) @ dy
    return alone(alone(dy) @ x)


matmul.defvjp(_forward, _backward)


class Dense(nn.Module):
    """``features`` outputs; parameters ``kernel`` [in, out] and ``bias`` [out], float32; computes in ``dtype``."""

    features: int
    dtype: str = "float32"
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "*n i"]) -> Float[Array, "*n o"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        y = matmul(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32).astype(self.dtype)
        return y
