import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t2i_jax.parallel.mesh import Mesh, replicated, split_batch
from t2i_jax.parallel.rules import shardings
from t2i_jax.training.optimizer import AdamW, Constant, Cosine, Muon
from t2i_jax.training.state import init_state
from t2i_jax.training.step import make_step
from tests.training.toy import Toy, toy_batch

STAGE = Toy(width=64, noise=0.1)
STEPS = 8


def fit(stage=STAGE, optimizer=None, steps=4, mesh=None, batch=32, **options):
    """Parameters, average and losses after some steps on fresh random pictures."""
    optimizer = optimizer or AdamW(learning_rate=1e-2, schedule=Constant(warmup=0))
    step = make_step(stage, optimizer, STEPS, **{"decay": 0.9} | options)
    key = jax.random.key(0)
    make = lambda: init_state(stage, optimizer.build(STEPS), key, toy_batch(batch, 16))
    if mesh is None:
        state, step, place = make(), jax.jit(step), lambda x: x
    else:
        where = shardings(jax.eval_shape(make), mesh)
        state = jax.jit(make, out_shardings=where)()
        step = jax.jit(step, out_shardings=(where, replicated(mesh)))
        place = lambda x: jax.device_put(x, split_batch(mesh))
    trail = []
    for i in range(steps):
        state, metrics = step(state, {}, key, place(toy_batch(batch, 16, seed=i)))
        trail.append((state.params, state.ema, metrics))
    return state, trail


def close(a, b, tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def test_accumulating_4_times_8_equals_a_batch_of_32():
    whole, (one, *_) = fit(Toy(width=64), steps=1)
    parts, (four, *_) = fit(Toy(width=64), steps=1, accumulate=4)
    close(one[2], four[2], 1e-6)
    close(whole.opt_state, parts.opt_state, 1e-6)


@pytest.mark.parametrize("axes", [{"data": 8}, {"data": 4, "model": 2}, {"replica": 2, "data": 2, "model": 2}])
def test_sharded_equals_unsharded(axes):
    # a large eps: with a small one Adam makes a full-size update of the rounding of a vanishing gradient
    optimizer = AdamW(learning_rate=1e-2, eps=1e-3, schedule=Constant(warmup=0))
    alone, one = fit(optimizer=optimizer)
    split, many = fit(optimizer=optimizer, mesh=Mesh(**axes).build())
    assert not split.params["down"]["kernel"].sharding.is_fully_replicated
    for (_, _, a), (_, _, b) in zip(one, many, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
    close(alone.ema, split.ema, 1e-5)


def test_the_noise_is_a_function_of_seed_and_step():
    (_, first), (_, again) = fit(), fit()
    losses = [float(m["loss"]) for _, _, m in first]
    assert losses == [float(m["loss"]) for _, _, m in again]


def test_the_average_warms_up_and_then_decays_at_the_given_rate():
    _, trail = fit(decay=0.15)
    average = jax.tree.map(jnp.copy, init_state(STAGE, optax.sgd(0), jax.random.key(0), toy_batch(32, 16)).params)
    for step, (params, ema, _) in enumerate(trail):
        decay = min(0.15, (1 + step) / (10 + step))
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, params)
        close(average, ema, 1e-6)


def test_reported_rate_and_gradient_norm_are_those_in_use():
    optimizer = AdamW(learning_rate=0.5, schedule=Cosine(warmup=2), clip=1e-3)
    _, trail = fit(optimizer=optimizer)
    np.testing.assert_allclose([m["lr"] for _, _, m in trail[:2]], [0.25, 0.5])
    assert float(trail[0][2]["grad_norm"]) > 1e-2


def test_schedules_start_above_zero_and_end_where_they_say():
    assert float(Cosine(warmup=10, final=0.1).factor(jnp.array(0), 100)) == pytest.approx(0.1)
    assert float(Cosine(warmup=10, final=0.1).factor(jnp.array(100), 100)) == pytest.approx(0.1)
    flat = Constant(warmup=10, cooldown=20)
    assert [float(flat.factor(jnp.array(s), 100)) for s in (9, 50, 80, 90, 100)] == [1.0, 1.0, 1.0, 0.5, 0.0]


def test_weight_decay_touches_kernels_alone():
    stage = Toy(width=64)
    optimizer = AdamW(learning_rate=0.1, decay=0.5, schedule=Constant(warmup=0))
    params = jax.tree.map(jnp.ones_like, stage.init(jax.random.key(0), toy_batch()))
    transform = optimizer.build(10)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = transform.update(zero, transform.init(params), params, norm=jnp.zeros(()))
    assert float(updates["up"]["kernel"].max()) == pytest.approx(-0.05)
    assert float(jnp.abs(updates["mean"]).max()) == float(jnp.abs(updates["down"]["bias"]).max()) == 0.0


def test_weight_decay_of_muon_touches_its_own_matrices_alone():
    params = {"blocks": {"kernel": jnp.ones((8, 8)), "bias": jnp.ones(8)}, "out": {"kernel": jnp.ones((8, 8))}}
    transform = Muon(learning_rate=0.1, decay=0.5, schedule=Constant(warmup=0)).build(10)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = transform.update(zero, transform.init(params), params, norm=jnp.zeros(()))
    assert float(updates["blocks"]["kernel"].max()) == pytest.approx(-0.05)
    assert float(jnp.abs(updates["blocks"]["bias"]).max()) == float(jnp.abs(updates["out"]["kernel"]).max()) == 0.0


@pytest.mark.parametrize("size", [0.1, 10.0])
def test_clipping_by_the_known_norm_is_optaxs(size):
    optimizer = AdamW(learning_rate=0.1, decay=0.0, schedule=Constant(warmup=0), eps=1.0, clip=2.0)
    params = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}
    grads = jax.tree.map(lambda x: size * jax.random.normal(jax.random.key(0), x.shape), params)
    ours, theirs = optimizer.build(10), optax.chain(optax.clip_by_global_norm(2.0), optax.adam(0.1, b2=0.99, eps=1.0))
    updates, _ = ours.update(grads, ours.init(params), params, norm=optax.tree.norm(grads))
    wanted, _ = theirs.update(grads, theirs.init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, wanted)


def test_muon_orthogonalises_each_layer_of_a_scanned_stack_and_leaves_the_rest_to_adam():
    params = {
        "blocks": {"up": {"kernel": jnp.zeros((3, 16, 48)), "bias": jnp.zeros((3, 48))}},
        "out": {"kernel": jnp.zeros((16, 48))},
    }
    grads = jax.tree.map(lambda x: jax.random.normal(jax.random.key(1), x.shape), params)
    transform = Muon(learning_rate=1.0, decay=0.0, clip=0.0, schedule=Constant(warmup=0)).build(10)
    updates, state = transform.update(grads, transform.init(params), params, norm=optax.tree.norm(grads))
    for layer in updates["blocks"]["up"]["kernel"]:
        values = jnp.linalg.svd(layer, compute_uv=False) / (0.2 * 48**0.5)
        assert 0.5 < float(values.min()) <= float(values.max()) < 1.4
    sizes = [jnp.abs(updates["out"]["kernel"]).ravel(), jnp.abs(updates["blocks"]["up"]["bias"]).ravel()]
    np.testing.assert_allclose(jnp.concatenate(sizes), sizes[0][0], rtol=1e-2)  # Adam's first step knows only signs
    shardings(jax.eval_shape(lambda: state), Mesh(data=8).build())
