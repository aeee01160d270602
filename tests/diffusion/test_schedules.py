"""Schedules: ends, monotone signal-to-noise, and the identity that inverts the velocity."""

import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.diffusion import Cosine, Flow, LinearBeta

SCHEDULES = [Flow(), Cosine(), Cosine(offset=0.0), LinearBeta()]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_log_snr_falls_with_time(schedule):
    log_snr = np.asarray(schedule.log_snr(jnp.linspace(1e-3, 0.999, 500)))
    assert np.isfinite(log_snr).all()
    assert (np.diff(log_snr) < 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_data_at_zero_and_noise_at_one(schedule):
    ends = jnp.array([0.0, 1.0])
    np.testing.assert_allclose(schedule.alpha(ends), [1.0, 0.0], atol=7e-3)
    np.testing.assert_allclose(schedule.sigma(ends), [0.0, 1.0], atol=1e-4)
    assert float(schedule.sigma(ends)[0]) == 0.0 and float(schedule.alpha(ends)[1]) >= 0.0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_alpha_p_plus_sigma_q_is_one(schedule):
    t = jnp.linspace(0.0, 1.0, 101)
    p, q = schedule.velocity(t)
    np.testing.assert_allclose(schedule.alpha(t) * p + schedule.sigma(t) * q, 1.0, atol=1e-6)


@pytest.mark.parametrize("schedule", [Cosine(), LinearBeta()])
def test_sigma_keeps_its_digits_near_the_data(schedule):
    t = 1e-4
    exact = {
        Cosine: lambda: 1 - (np.cos((t + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)) ** 2,
        LinearBeta: lambda: -np.expm1(-(0.1 * t + 9.95 * t * t)),
    }[type(schedule)]()
    np.testing.assert_allclose(schedule.sigma(jnp.float32(t)), np.sqrt(exact), rtol=2e-4)


def test_linear_beta_is_the_thousand_step_schedule():
    betas = np.linspace(1e-4, 0.02, 1000)
    discrete = np.cumprod(1 - betas)
    t = (np.arange(1000) + 1) / 1000
    continuous = np.asarray(LinearBeta().alpha(jnp.asarray(t, jnp.float32))) ** 2
    np.testing.assert_allclose(continuous, discrete, atol=1e-3)
