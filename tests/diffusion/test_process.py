"""Processes: corrupting and converting is a cycle; a loss in another space is the loss of the converted prediction."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.diffusion import (
    Clean,
    Cosine,
    Flow,
    LinearBeta,
    LogitNormal,
    LossIn,
    MinSNR,
    Noise,
    Process,
    Shifted,
    Uniform,
    Velocity,
)

SCHEDULES = [Flow(), Cosine(), LinearBeta()]
PREDICTIONS = [Clean(), Noise(), Velocity()]
ALL = list(itertools.product(SCHEDULES, PREDICTIONS))


def example(t, shape=(3, 2)):
    x0, noise = jax.random.normal(jax.random.key(0), (2, len(t), *shape))
    return x0, noise, jnp.asarray(t)


@pytest.mark.parametrize("schedule,prediction", ALL)
def test_corrupt_then_convert_is_a_cycle(schedule, prediction):
    x0, noise, t = example([0.05, 0.3, 0.5, 0.8, 0.95])
    process = Process(schedule, prediction)
    x_t, output = process.corrupt(x0, noise, t), process.target(x0, noise, t)
    np.testing.assert_allclose(process.to_clean(output, x_t, t), x0, atol=2e-4)
    np.testing.assert_allclose(process.to_noise(output, x_t, t), noise, atol=2e-4)
    np.testing.assert_allclose(prediction.from_clean(schedule, x0, x_t, t), output, atol=2e-3)


def test_flow_velocity_is_the_derivative_of_the_path():
    x0, noise, t = example([0.2, 0.7])
    process = Process(Flow(), Velocity())
    _, derivative = jax.jvp(lambda t: process.corrupt(x0, noise, t), (t,), (jnp.ones_like(t),))
    np.testing.assert_allclose(process.target(x0, noise, t), derivative, atol=1e-6)


@pytest.mark.parametrize("schedule,prediction", ALL)
@pytest.mark.parametrize("space", PREDICTIONS)
def test_loss_in_a_space_is_the_error_of_the_converted_output(schedule, prediction, space):
    x0, noise, t = example([0.3, 0.6])
    process = Process(schedule, prediction, LossIn(space))
    x_t = process.corrupt(x0, noise, t)
    output = process.target(x0, noise, t) + 0.1 * jax.random.normal(jax.random.key(1), x0.shape)
    converted = space.from_clean(schedule, process.to_clean(output, x_t, t), x_t, t)
    expected = jnp.mean((converted - space.target(schedule, x0, noise, t)) ** 2, axis=(1, 2))
    np.testing.assert_allclose(process.loss(output, x0, noise, t), expected, rtol=1e-3)


def test_the_velocity_loss_of_clean_prediction_is_clamped():
    x0, noise, t = example([0.0, 0.01, 0.1])
    process = Process(Flow(), Clean(), LossIn(Velocity(), floor=0.05))
    np.testing.assert_allclose(process.loss(x0 + 1.0, x0, noise, t), [400.0, 400.0, 100.0], rtol=1e-4)


def test_min_snr_bounds_the_weight_on_the_clean_error():
    x0, noise, t = example([0.1, 0.5, 0.9])
    loss = Process(Flow(), Clean(), MinSNR(5.0)).loss(x0 + 1.0, x0, noise, t)
    np.testing.assert_allclose(loss, [5.0, 1.0, (0.1 / 0.9) ** 2], rtol=1e-4)


@pytest.mark.parametrize("times", [Uniform(), LogitNormal(0.3, 1.2), Shifted(LogitNormal(), 3.0)])
def test_times_lie_in_the_unit_interval(times):
    t = times.sample(jax.random.key(0), 2000)
    assert t.shape == (2000,) and bool(((t >= 0) & (t <= 1)).all())


def test_a_shift_above_one_moves_time_towards_noise_and_keeps_the_order():
    rng = jax.random.key(0)
    t, shifted = Uniform().sample(rng, 500), Shifted(Uniform(), 3.0).sample(rng, 500)
    assert bool((shifted >= t).all())
    np.testing.assert_array_equal(np.argsort(t), np.argsort(shifted))
