"""Guidance: 1 is the identity, 0 the unconditional model, and one doubled batch equals two calls."""

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.diffusion import Euler, Flow, Guidance, Process, Velocity

X, T = jax.random.normal(jax.random.key(0), (4, 3)), jnp.array([0.1, 0.4, 0.6, 0.9])


def denoise(x, t, condition):
    return x * t[:, None] + condition["shift"]


CONDITION, NULL = {"shift": jnp.arange(4.0)[:, None]}, {"shift": -jnp.ones((4, 1))}


def test_scale_one_is_the_conditional_denoiser():
    conditional = lambda x, t: denoise(x, t, CONDITION)
    assert Guidance(1.0)(conditional, lambda x, t: x) is conditional
    np.testing.assert_array_equal(Guidance(1.0).paired(denoise, CONDITION, NULL)(X, T), conditional(X, T))


def test_scale_zero_is_the_unconditional_denoiser():
    np.testing.assert_allclose(Guidance(0.0).paired(denoise, CONDITION, NULL)(X, T), denoise(X, T, NULL), atol=1e-6)


def test_a_doubled_batch_equals_two_calls():
    two = Guidance(3.0)(lambda x, t: denoise(x, t, CONDITION), lambda x, t: denoise(x, t, NULL))
    one = Guidance(3.0).paired(denoise, CONDITION, NULL)
    np.testing.assert_allclose(one(X, T), two(X, T), atol=1e-6)


def test_outside_its_interval_guidance_does_nothing():
    out = Guidance(3.0, interval=(0.3, 0.7)).paired(denoise, CONDITION, NULL)(X, T)
    plain, full = denoise(X, T, CONDITION), Guidance(3.0).paired(denoise, CONDITION, NULL)(X, T)
    np.testing.assert_allclose(out[jnp.array([0, 3])], plain[jnp.array([0, 3])], atol=1e-6)
    np.testing.assert_allclose(out[1:3], full[1:3], atol=1e-6)


PART = {"shift": jnp.array([5.0, -2.0, 0.5, 7.0])[:, None]}


def test_guidance_by_two_conditions_is_the_sum_of_what_each_adds():
    full, part, none = (denoise(X, T, condition) for condition in (CONDITION, PART, NULL))
    guided = Guidance(4.0).parted(denoise, CONDITION, PART, NULL, 1.5)(X, T)
    np.testing.assert_allclose(guided, none + 4.0 * (part - none) + 1.5 * (full - part), atol=1e-5)


def test_two_conditions_guided_alike_are_one_condition():
    guided = Guidance(3.0).parted(denoise, CONDITION, PART, NULL, 3.0)(X, T)
    np.testing.assert_allclose(guided, Guidance(3.0).paired(denoise, CONDITION, NULL)(X, T), atol=1e-5)


def test_guidance_by_two_conditions_does_nothing_at_scale_one_and_outside_its_interval():
    plain = denoise(X, T, CONDITION)
    np.testing.assert_array_equal(Guidance(1.0).parted(denoise, CONDITION, PART, NULL, 2.0)(X, T), plain)
    out = Guidance(3.0, interval=(0.3, 0.7)).parted(denoise, CONDITION, PART, NULL, 2.0)(X, T)
    np.testing.assert_allclose(out[jnp.array([0, 3])], plain[jnp.array([0, 3])], atol=1e-5)
    assert not np.allclose(out[1:3], plain[1:3])


def test_guiding_the_clean_estimate_is_guiding_the_velocity():
    process = Process(Flow(), Velocity())
    conditional, unconditional = jax.random.normal(jax.random.key(1), (2, 4, 3))
    guided = Guidance(2.5).mix(process.to_clean(conditional, X, T), process.to_clean(unconditional, X, T), T)
    expected = process.to_clean(unconditional + 2.5 * (conditional - unconditional), X, T)
    np.testing.assert_allclose(guided, expected, atol=1e-5)


def test_guidance_works_inside_a_sampler():
    denoiser = Guidance(2.0).paired(lambda x, t, c: jnp.broadcast_to(c["shift"], x.shape), CONDITION, NULL)
    expected = np.broadcast_to(2 * np.arange(4.0)[:, None] + 1, (4, 3))
    np.testing.assert_allclose(Euler(3)(denoiser, X, Flow()), expected, atol=1e-5)
