"""The dense layer is flax's, gradient included."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from t2i_jax.models.conv import Conv, DoublingConv
from t2i_jax.models.dense import Dense, Heads, _apart, _together, by_batch
from t2i_jax.parallel.hlo import read
from t2i_jax.parallel.mesh import Mesh, split_batch


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("features", [3, 11])  # either side of the kernel's gradient may be the one transposed
@pytest.mark.parametrize("bias", [True, False])
def test_equals_flax(features, bias, dtype, tolerance):
    ours, flax = (kind(features, use_bias=bias, dtype=dtype) for kind in (Dense, nn.Dense))
    x = jax.random.normal(jax.random.key(0), (2, 5, 7))
    params = jax.jit(flax.init)(jax.random.key(1), x)
    assert jax.tree.map(jnp.shape, jax.eval_shape(ours.init, jax.random.key(1), x)) == jax.tree.map(jnp.shape, params)
    target = jax.random.normal(jax.random.key(2), (2, 5, features))

    def value_and_grads(module):
        return jax.jit(jax.value_and_grad(lambda p, x: (module.apply(p, x) * target).sum(), argnums=(0, 1)))(params, x)

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=10 * tolerance)
    jax.tree.map(close, value_and_grads(ours), value_and_grads(flax))


@pytest.mark.parametrize("gradient", [_apart, _together])  # a CPU's, and the others'
@pytest.mark.parametrize("i, o", [((7,), (3,)), ((7,), (11,)), ((7,), (2, 3)), ((2, 3), (7,)), ((2, 3), (4,))])
def test_the_kernel_gradient_sums_over_all_rows(gradient, i, o):
    x, dy = (jax.random.normal(jax.random.key(k), (2, 5, *sizes)) for k, sizes in enumerate((i, o)))
    np.testing.assert_allclose(gradient(x, dy, 2), np.tensordot(x, dy, ((0, 1), (0, 1))), rtol=1e-5, atol=1e-5)


def compare(cut, whole, x):
    """Both modules have the same parameters, and compute the same with them, gradients included."""
    params = jax.jit(whole.init)(jax.random.key(1), x)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(2), leaf.shape), params)
    assert jax.tree.map(jnp.shape, jax.eval_shape(cut.init, jax.random.key(1), x)) == jax.tree.map(jnp.shape, params)
    run = lambda module: jax.jit(jax.value_and_grad(lambda p, x: jnp.sin(module.apply(p, x)).sum(), argnums=(0, 1)))
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(jax.jit(cut.apply)(params, x), jax.jit(whole.apply)(params, x))
    jax.tree.map(close, run(cut)(params, x), run(whole)(params, x))


def test_heads_are_one_product_cut_into_queries_keys_and_values():
    class Cut(nn.Module):
        @nn.compact
        def __call__(self, x):
            q, k, v = Heads(2, name="qkv")(x)
            return q + 2 * k + 3 * v

    class Whole(nn.Module):
        @nn.compact
        def __call__(self, x):
            qkv = Dense(18, name="qkv")(x).reshape(2, 5, 3, 2, 3)
            return qkv[:, :, 0] + 2 * qkv[:, :, 1] + 3 * qkv[:, :, 2]

    compare(Cut(), Whole(), jax.random.normal(jax.random.key(0), (2, 5, 6)))


def test_a_layer_reads_heads_and_their_width_together():
    class Flat(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Dense(7, name="out")(x.reshape(2, 5, 6))

    class Cut(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Dense(7, inputs=2, name="out")(x)

    compare(Cut(), Flat(), jax.random.normal(jax.random.key(0), (2, 5, 2, 3)))


@pytest.mark.parametrize("layer, rows", [(Dense, (2**16,)), (Conv, (16, 64, 64)), (DoublingConv, (16, 32, 32))])
def test_a_bias_that_many_places_share_has_their_whole_gradient(layer, rows):
    module = layer(3, dtype="bfloat16")
    x = jnp.zeros((*rows, 1))
    params = jax.jit(module.init)(jax.random.key(0), x)
    weight = jnp.full(jax.eval_shape(module.apply, params, x).shape, 2.0**-16, "bfloat16")
    grads = jax.jit(jax.grad(lambda p, x, w: (module.apply(p, x) * w).astype(jnp.float32).sum()))(params, x, weight)
    np.testing.assert_allclose(grads["params"]["bias"], 1.0, rtol=1e-2)  # in half precision a fifth of it, or less


def test_activations_and_their_gradients_stay_with_their_examples():
    """Also where the compiler is told of no batch, only of a kernel that is stored by its columns."""
    mesh, dense = Mesh(data=8).build(), Dense(64)
    shape = lambda shape, spec: jax.ShapeDtypeStruct(shape, np.float32, sharding=jax.NamedSharding(mesh, spec))
    params = {"params": {"kernel": shape((16, 64), P(None, "data")), "bias": shape((64,), P())}}

    def both(params, x):
        y, back = jax.vjp(lambda x: dense.apply(params, x), x)
        return y, back(y)[0]

    with jax.set_mesh(mesh):
        compiled = jax.jit(both).lower(params, shape((80, 16), P())).compile()
    assert all(where.is_equivalent_to(split_batch(mesh), 2) for where in compiled.output_shardings)


@pytest.mark.parametrize("rows, splits", [(16, True), (12, False)])
def test_a_batch_is_split_where_the_mesh_divides_it(rows, splits):
    constrained = lambda: "sharding_constraint" in str(jax.make_jaxpr(by_batch)(jnp.zeros((rows, 3))))
    assert not constrained()
    with jax.set_mesh(Mesh(replica=2, data=4).build()):
        assert constrained() == splits


def test_few_rows_go_to_the_kernel_which_stays_where_it_is():
    """Nothing as large as the kernel travels, forward or back, and the result is that of one device."""
    mesh, dense = Mesh(replica=2, data=4).build(), Dense(512, few=True)
    x, target = (jax.random.normal(jax.random.key(i), (16, n)) for i, n in enumerate((256, 512)))
    params = dense.init(jax.random.key(2), x)
    run = jax.jit(jax.value_and_grad(lambda p, x: (dense.apply(p, x) * target).sum(), argnums=(0, 1)))
    alone = run(params, x)
    where = {"params": {"kernel": NamedSharding(mesh, P(None, "data")), "bias": NamedSharding(mesh, P())}}
    split = jax.device_put(params, where), jax.device_put(x, split_batch(mesh))
    with jax.set_mesh(mesh):
        text = run.lower(*split).compile().as_text()
        jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-4), run(*split), alone)
    messages = [one for one in read(text, dict(mesh.shape)).collectives if "data" in one.axes]
    assert messages
    assert max(one.bytes for one in messages) <= 16 * 512 * 4 < 256 * 512 * 4 / 2
