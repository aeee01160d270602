"""The dense layer of every model: ``y = x @ kernel + bias``, with a gradient that is fast on a CPU too.

The gradient of the kernel is ``x^T dy``. XLA folds that transposition into the product and then, on a CPU, leaves the
fast matrix kernels; held apart from the product, the transposition costs one pass over x and the product runs at full
speed. Other backends read transposed operands for nothing and get the plain product.

On a mesh, what enters and leaves the layer is split over the batch, and so are their gradients. Left to itself, TPUs'
compiler splits activations by the features that a kernel is stored by, and moves them between chips in every layer.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from t2i_jax.types import BATCH_AXES, MODEL_AXIS

COLUMNS = (MODEL_AXIS, BATCH_AXES[1])
"""Axes of the mesh that split the columns of a ``few`` layer's kernel, as the table of sharding rules says."""


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


@jax.custom_vjp
def add_bias(y: Float[Array, "*n o"], bias: Float[Array, "o"]) -> Float[Array, "*n o"]:
    """``y + bias`` in the dtype of y. The bias's gradient is a long sum, which stalls in half precision: it is made in
    float32."""
    return y + bias.astype(y.dtype)


add_bias.defvjp(
    lambda y, bias: (add_bias(y, bias), None),
    lambda _, dy: (dy, dy.sum(tuple(range(dy.ndim - 1)), dtype=jnp.float32)),
)


def by_batch(x: Float[Array, "b *n"]) -> Float[Array, "b *n"]:
    """``x``, its first dimension split over the batch axes of the mesh in force, where they divide it."""
    if not divides(BATCH_AXES, x.shape[0]):
        return x
    free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    return lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES, *free))


def at_shards(x: Float[Array, "b n"], columns: bool) -> Float[Array, "b n"]:
    """``x``, the rows of one replica in every device of it; its columns split as a ``few`` layer's kernel, or whole."""
    if not (divides(BATCH_AXES, x.shape[0]) and (not columns or divides(COLUMNS, x.shape[1]))):
        return x
    return lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES[0], COLUMNS if columns else None))


def divides(axes: tuple[str, ...], size: int) -> bool:
    """Whether these axes of the mesh in force split anything, and a dimension of this size evenly."""
    ways = ways_of(axes)
    return ways > 1 and size % ways == 0


def ways_of(axes: tuple[str, ...]) -> int:
    """In how many these axes of the mesh in force split what is traced: 1 on a device's own share."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty or mesh.manual_axes else math.prod(mesh.shape[axis] for axis in axes)


class Dense(nn.Module):
    """``features`` outputs; parameters ``kernel`` [in, out] and ``bias`` [out], float32; computes in ``dtype``.

    ``few``: x is [b,i], one row an example.
    """

    features: int
    dtype: str = "float32"
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    few: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*n i"]) -> Float[Array, "*n o"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        x, kernel = by_batch(x.astype(self.dtype)), kernel.astype(self.dtype)
        y = at_shards(matmul(at_shards(x, False), kernel), True) if self.few else matmul(x, kernel)
        y = by_batch(y)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
            y = add_bias(y, bias)
        return y
