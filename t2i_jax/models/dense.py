"""The dense layer of every model: ``y = x @ kernel + bias``, with a gradient that is fast on a CPU too.

The gradient of the kernel is ``x^T dy``. XLA folds that transposition into the product and then, on a CPU, leaves the
fast matrix kernels; held apart from the product, the transposition costs one pass over x and the product runs at full
speed. Other backends read transposed operands for nothing and get the plain product.

On a mesh, what enters and leaves the layer is split over the batch, and so are their gradients. Left to itself, TPUs'
compiler splits activations by the features that a kernel is stored by, and moves them between chips in every layer.
"""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from t2i_jax.types import BATCH_AXES, MODEL_AXIS

COLUMNS = (MODEL_AXIS, BATCH_AXES[1])
"""Axes of the mesh that split the columns of a ``few`` layer's kernel, as the table of sharding rules says."""


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(x: Float[Array, "*ni"], kernel: Float[Array, "*io"], inputs: int = 1) -> Float[Array, "*no"]:
    """``x @ kernel`` over the last ``inputs`` axes of x, which are the first ones of the kernel."""
    return jnp.tensordot(x, kernel, inputs)


def _forward(x: Array, kernel: Array, inputs: int) -> tuple[Array, tuple[Array, Array]]:
    return matmul(x, kernel, inputs), (x, kernel)


def _backward(inputs: int, saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = saved
    rows = x.ndim - inputs
    back = (tuple(range(rows, dy.ndim)), tuple(range(inputs, kernel.ndim)))
    return lax.dot_general(dy, kernel, (back, ((), ()))), kernel_gradient(x, dy, rows)


def kernel_gradient(x: Float[Array, "*ni"], dy: Float[Array, "*no"], rows: int = 1) -> Float[Array, "*io"]:
    """``x^T dy``, a sum over the first ``rows`` axes of both."""
    return lax.platform_dependent(x, dy, cpu=partial(_apart, rows=rows), default=partial(_together, rows=rows))


def _together(x: Float[Array, "*ni"], dy: Float[Array, "*no"], rows: int) -> Float[Array, "*io"]:
    if x.ndim > rows + 1:  # the compiler for v5e fails on the scatter of some gradients [heads, d, out]
        return _flat(lambda x, dy: x.T @ dy, x, dy, rows)
    first = tuple(range(rows))
    return lax.dot_general(x, dy, ((first, first), ((), ())))


def _apart(x: Float[Array, "*ni"], dy: Float[Array, "*no"], rows: int) -> Float[Array, "*io"]:
    """``x^T dy`` with the narrower of the two transposed by itself."""
    alone = lambda a: lax.optimization_barrier(lax.optimization_barrier(a).T)

    def product(x: Array, dy: Array) -> Array:
        return alone(x) @ dy if x.shape[1] <= dy.shape[1] else alone(alone(dy) @ x)

    return _flat(product, x, dy, rows)


def _flat(product: Callable, x: Array, dy: Array, rows: int) -> Array:
    """``product`` of matrices [rows, features]."""
    flat = lambda a: a.reshape(math.prod(a.shape[:rows]), -1)
    return product(flat(x), flat(dy)).reshape(*x.shape[rows:], *dy.shape[rows:])


matmul.defvjp(_forward, _backward)


@jax.custom_vjp
def add_bias(y: Float[Array, "*no"], bias: Float[Array, "*o"]) -> Float[Array, "*no"]:
    """``y + bias`` in the dtype of y. The bias's gradient is a long sum, which stalls in half precision: it is made in
    float32."""
    return y + bias.astype(y.dtype)


add_bias.defvjp(
    lambda y, bias: (add_bias(y, bias), bias.ndim),
    lambda features, dy: (dy, dy.sum(tuple(range(dy.ndim - features)), dtype=jnp.float32)),
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

    ``inputs``: how many of x's last axes it reads, 2 for heads and their width. ``few``: x is [b,i], a row an example.
    """

    features: int
    dtype: str = "float32"
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    inputs: int = 1
    few: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*ni"]) -> Float[Array, "*n o"]:
        sizes = x.shape[x.ndim - self.inputs :]
        kernel = self.param("kernel", self.kernel_init, (math.prod(sizes), self.features), jnp.float32)
        x, kernel = by_batch(x.astype(self.dtype)), kernel.astype(self.dtype).reshape(*sizes, -1)
        if self.few:
            y = at_shards(matmul(at_shards(x, False), kernel), True)
        else:
            y = matmul(x, kernel, self.inputs)
        y = by_batch(y)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
            y = add_bias(y, bias)
        return y


class Heads(nn.Module):
    """The queries, keys and values of ``heads`` heads, together as wide as x: three of [*n, heads, d].

    Parameters as those of a ``Dense`` with three times the width, in this order. Each is a product of its own with a
    kernel [in, heads, d]: of one product that is cut into heads afterwards, TPUs' compiler copies the result from one
    layout to another, and back in the backward pass. On v5e:16x16 that was 246 of the 1782 ms of a step of CLIP.
    """

    heads: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*n i"]) -> tuple[Float[Array, "*n k d"], ...]:
        width = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (width, 3 * width), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (3 * width,), jnp.float32)
        x, kernel = by_batch(x.astype(self.dtype)), kernel.astype(self.dtype).reshape(width, 3, self.heads, -1)
        bias = bias.reshape(3, self.heads, -1)
        return tuple(add_bias(by_batch(matmul(x, kernel[:, part])), bias[part]) for part in range(3))
