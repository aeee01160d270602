"""Every kernel computes what ``plain`` does: values and gradients, whatever the length and the mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from t2i_jax.models import attention as module
from t2i_jax.models.attention import attention, cudnn, plain, splash
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.types import BATCH_AXES


def heads(b, length, k, d, seed):
    return (jax.random.normal(key, (b, length, k, d)) for key in jax.random.split(jax.random.key(seed), 3))


@pytest.mark.parametrize("length", [128, 76, 320])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
def test_the_tpu_kernel_computes_what_the_plain_one_does(length, causal, hidden):
    q, k, v = heads(2, length, 2, 64, length)
    visible = None
    if hidden:
        ends = jnp.array([length // 3, length])
        visible = jnp.arange(length)[None] < ends[:, None]
    weight = jax.random.normal(jax.random.key(9), q.shape)
    run = lambda f: jax.value_and_grad(lambda *x: (f(*x) * weight).sum(), (0, 1, 2))(q, k, v)
    mine, mine_grads = run(lambda *x: splash(*x, causal, visible, interpret=True))
    true, true_grads = run(lambda *x: plain(*x, causal, visible))
    np.testing.assert_allclose(mine, true, rtol=1e-4, atol=1e-3)
    for a, b in zip(mine_grads, true_grads):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()))


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs a GPU")
@pytest.mark.parametrize("length", [128, 141])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
def test_the_gpu_kernel_computes_what_the_plain_one_does(length, causal, hidden):
    q, k, v = (x.astype(jnp.bfloat16) for x in heads(2, length, 2, 64, length))
    visible = jnp.arange(length)[None] < jnp.array([[length // 3], [length]]) if hidden else None
    weight = jax.random.normal(jax.random.key(9), q.shape)
    run = lambda f, *x: jax.value_and_grad(lambda *x: (f(*x, causal, visible) * weight).sum(), (0, 1, 2))(*x)
    _, mine = run(cudnn, q, k, v)
    with jax.default_matmul_precision("highest"):
        _, true = run(plain, *(x.astype(jnp.float32) for x in (q, k, v)))
        values = plain(*(x.astype(jnp.float32) for x in (q, k, v)), causal, visible)
    np.testing.assert_allclose(cudnn(q, k, v, causal, visible).astype(jnp.float32), values, atol=0.02)
    for a, b in zip(mine, true):
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.02 * float(jnp.abs(b).max()))


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs a GPU")
def test_half_precision_on_a_gpu_goes_through_cudnn():
    q, k, v = (x.astype(jnp.bfloat16) for x in heads(2, 128, 2, 64, 0))
    grad = jax.jit(jax.grad(lambda q: attention(q, k, v).astype(jnp.float32).sum()))
    assert "cudnn" in grad.lower(q).as_text()


def test_the_tpu_kernel_is_the_same_split_over_batch_and_heads():
    q, k, v = heads(4, 128, 2, 64, 0)
    whole = splash(q, k, v, True, None, interpret=True)
    with jax.set_mesh(Mesh(replica=2, data=2, model=2).build()):
        split = jax.jit(lambda *x: splash(*x, True, None, interpret=True))(q, k, v)
    np.testing.assert_allclose(split, whole, atol=1e-6)


def test_the_tpu_kernel_is_the_same_on_a_devices_own_share():
    q, k, v = heads(4, 128, 2, 64, 0)
    whole, split = splash(q, k, v, True, None, interpret=True), PartitionSpec(BATCH_AXES)
    share = jax.shard_map(
        lambda *x: splash(*x, True, None, interpret=True), in_specs=split, out_specs=split, check_vma=False
    )
    with jax.set_mesh(Mesh(data=4, model=2).build()):
        alone = jax.jit(share)(q, k, v)
    np.testing.assert_allclose(alone, whole, atol=1e-6)


def test_a_causal_query_never_sees_what_comes_later():
    q, k, v = heads(1, 6, 2, 8, 0)
    seen = jax.jacobian(lambda v: attention(q, k, v, causal=True)[0, :, 0, 0])(v)[:, 0, :, 0, 0]
    assert (np.triu(seen, 1) == 0).all() and (np.diag(seen) > 0).all()


@pytest.mark.parametrize("width, taken", [(64, True), (128, True), (12, False), (160, False)])
def test_a_head_that_cudnn_does_not_take_goes_the_plain_way(monkeypatch, width, taken):
    monkeypatch.setattr(module, "platform", lambda: "gpu")
    monkeypatch.setattr(module, "cudnn", lambda q, *given: jnp.full_like(q, 7))
    q = jnp.ones((1, 3, 2, width), jnp.bfloat16)
    assert bool((attention(q, q, q) == 7).all()) == taken
