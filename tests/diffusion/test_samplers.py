"""Samplers: an oracle comes back, Gaussian data come out as they went in, orders of convergence are as claimed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.diffusion import DDIM, Cosine, DPMSolverPP, Euler, Flow, Heun, LinearBeta

SCHEDULES = [Flow(), Cosine(), LinearBeta()]
SAMPLERS = [Euler(7), Heun(7), DDIM(7), DDIM(7, eta=1.0), DPMSolverPP(7), Euler(7, shift=3.0), Heun(1), DPMSolverPP(1)]
MEAN, STD = 0.7, 0.3


def gaussian(schedule):
    """The exact denoiser of data N(MEAN, STD^2): the posterior mean."""

    def denoiser(x, t):
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        return MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)

    return denoiser


def exact(schedule, noise):
    """Where the flow ODE carries a point: Gaussians map to Gaussians by their standard scores."""
    alpha, sigma = schedule.alpha(jnp.ones(())), schedule.sigma(jnp.ones(()))
    return MEAN + STD * (noise - alpha * MEAN) / jnp.sqrt(alpha**2 * STD**2 + sigma**2)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_oracle_is_returned(sampler, schedule):
    x0, noise = jax.random.normal(jax.random.key(0), (2, 4, 5))
    out = sampler(lambda x, t: x0, noise, schedule, jax.random.key(1))
    np.testing.assert_allclose(out, x0, atol=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", [Euler(100), Heun(60), DDIM(100), DDIM(300, eta=1.0), DPMSolverPP(50)])
def test_gaussian_data_keep_their_mean_and_spread(sampler, schedule):
    noise = jax.random.normal(jax.random.key(0), (20_000, 1))
    out = np.asarray(jax.jit(lambda n: sampler(gaussian(schedule), n, schedule, jax.random.key(1)))(noise))
    assert abs(out.mean() - MEAN) < 0.02
    assert abs(out.std() / STD - 1) < 0.06


def order(sampler, schedule):
    noise = jnp.linspace(-2.0, 2.0, 9)[:, None]
    errors = [jnp.abs(sampler(n)(gaussian(schedule), noise, schedule) - exact(schedule, noise)).max() for n in (16, 64)]
    return float(jnp.log(errors[0] / errors[1]) / jnp.log(4.0))


# sigma must start as a smooth function of t: with an offset it starts as sqrt(t), and the last (Euler) step dominates
@pytest.mark.parametrize("schedule", [Flow(), Cosine(offset=0.0)])
def test_heun_converges_with_order_two_and_euler_with_one(schedule):
    assert 0.7 < order(Euler, schedule) < 1.3
    assert order(Heun, schedule) > 1.7


def test_the_multistep_solver_converges_faster_than_euler():
    assert order(DPMSolverPP, Cosine()) > order(Euler, Cosine()) + 0.4


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_euler_is_deterministic_ddim(schedule):
    noise = jnp.linspace(-2.0, 2.0, 9)[:, None]
    one, two = (sampler(gaussian(schedule), noise, schedule) for sampler in (Euler(9), DDIM(9)))
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_ddim_with_eta_zero_ignores_the_rng_and_with_eta_one_does_not():
    noise = jax.random.normal(jax.random.key(0), (6, 1))
    run = lambda eta, seed: np.asarray(DDIM(8, eta=eta)(gaussian(Cosine()), noise, Cosine(), jax.random.key(seed)))
    np.testing.assert_array_equal(run(0.0, 1), run(0.0, 2))
    assert np.abs(run(1.0, 1) - run(1.0, 2)).max() > 1e-2


def test_ddim_that_draws_noise_says_when_the_rng_is_missing():
    with pytest.raises(ValueError, match="pass rng"):
        DDIM(4, eta=0.5)(lambda x, t: x, jnp.zeros((1, 2)), Flow())


@pytest.mark.parametrize("sampler", [Euler(5), Heun(5), DDIM(5), DPMSolverPP(5)])
def test_the_denoiser_is_traced_once_and_runs_as_often_as_promised(sampler):
    traced, ran = [], []

    def denoiser(x, t):
        traced.append(1)
        jax.debug.callback(lambda t: ran.append(float(t[0])), t, ordered=True)
        return 0.5 * x

    sampler(denoiser, jnp.ones((2, 3)), Flow()).block_until_ready()
    jax.effects_barrier()
    assert len(traced) == 1 and len(ran) == sampler.evaluations
    assert ran == sorted(ran, reverse=True) and min(ran) > 0


@pytest.mark.parametrize("sampler", [Euler(3), Heun(3), DDIM(3, eta=1.0), DPMSolverPP(3)])
def test_the_dtype_of_the_noise_is_kept(sampler):
    noise = jnp.ones((2, 3), jnp.bfloat16)
    assert sampler(lambda x, t: x.astype(jnp.float32), noise, Flow(), jax.random.key(0)).dtype == jnp.bfloat16


def test_no_steps_is_refused():
    with pytest.raises(ValueError, match="steps >= 1"):
        Euler(0)
