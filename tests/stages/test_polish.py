"""The contest of the VAE's decoder with its adversary: who is drawn where, and how strongly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.models.discriminator import PatchDiscriminator, hinge
from t2i_jax.models.vae import AutoencoderKL
from t2i_jax.stages import PolishStage, VAEStage
from t2i_jax.stages.latents import random_crops
from t2i_jax.stages.polish import polished

MODEL = AutoencoderKL(channels=(8, 8), latent_channels=4, groups=4, attention=False)
STAGE = PolishStage(
    vae=VAEStage(model=MODEL), crop=0, adversary=PatchDiscriminator((8, 8, 8), groups=4), weight=0.7, clean=0.0
)


@pytest.fixture(scope="module")
def batch():
    return {"image": jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8))}


@pytest.fixture(scope="module")
def params(batch):
    return jax.jit(STAGE.init)(jax.random.key(0), batch)


@pytest.fixture(scope="module")
def frozen(batch):
    return {"vae": jax.jit(STAGE.vae.init)(jax.random.key(3), batch)}


@pytest.fixture(scope="module")
def pair():
    """A grainy picture for one of coarse squares."""
    grain, squares = jax.random.uniform(jax.random.key(1), (2, 4, 32, 32, 3), minval=-1.0)
    return grain, squares[:, ::8, ::8].repeat(8, 1).repeat(8, 2)


@pytest.fixture(scope="module")
def seasoned(params, pair):
    """An adversary that has learned to tell this pair apart."""
    out, image = pair
    slope = jax.jit(jax.grad(lambda a: hinge(judge(a, image), judge(a, out))))
    adversary = params["adversary"]
    for _ in range(20):
        adversary = jax.tree.map(lambda x, g: x - 0.05 * g, adversary, slope(adversary))
    return adversary


def judge(adversary, x):
    return STAGE.adversary.apply({"params": adversary}, x)


def norm(x):
    return float(jnp.linalg.norm(x))


def test_hinge_is_two_where_nothing_is_told_apart_and_zero_where_all_is():
    ones = jnp.ones((2, 3, 3))
    assert [float(hinge(a * ones, b * ones)) for a, b in ((0, 0), (1, -1), (-1, 1))] == [2.0, 0.0, 4.0]


def test_a_picture_is_drawn_along_the_adversarys_gradient_in_proportion_to_the_errors(seasoned, pair):
    out, image = pair
    drawn, own = jax.jit(jax.grad(lambda x: STAGE.contest(seasoned, x, image), has_aux=True))(out)
    opinion = jax.jit(jax.grad(lambda x: -judge(seasoned, x).mean()))(out)
    error = jax.jit(jax.grad(lambda x: STAGE.vae.error(x, image)[0]))(out)
    assert float(jnp.vdot(drawn, opinion)) == pytest.approx(norm(drawn) * norm(opinion), rel=1e-4)
    assert own < 1.9
    assert norm(drawn) == pytest.approx(0.7 * (1.0 - float(own) / 2.0) * norm(error), rel=1e-3)


def test_the_adversary_learns_by_the_hinge_alone_and_the_decoder_does_not_help_it(params, pair):
    out, image = pair
    wanted = jax.jit(jax.grad(lambda a: hinge(judge(a, image), judge(a, out))))(params["adversary"])
    found = jax.jit(jax.grad(lambda a: STAGE.contest(a, out, image)[0]))(params["adversary"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, wanted)


def test_an_adversary_that_is_wrong_has_no_say(seasoned, pair):
    image, out = pair  # the other way round than it has learned
    assert np.any(jax.jit(jax.grad(lambda x: judge(seasoned, x).mean()))(out))
    drawn, own = jax.jit(jax.grad(lambda x: STAGE.contest(seasoned, x, image), has_aux=True))(out)
    assert own > 2.0
    assert not np.any(drawn)


def test_the_polish_starts_as_the_vae_and_trains_its_decoder_alone(params, frozen, batch):
    jax.tree.map(np.testing.assert_array_equal, polished(frozen["vae"], params), frozen["vae"])
    grads = jax.jit(jax.grad(lambda p: STAGE.loss(p, frozen, jax.random.key(2), batch)[0]))(params)
    assert grads["decoder"].keys() == frozen["vae"]["model"]["decoder"].keys()
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_noise_makes_the_error_larger_and_none_is_the_vaes_own_error(params, frozen, batch):
    def error(noise):
        stage = PolishStage(vae=STAGE.vae, crop=0, adversary=STAGE.adversary, noise=noise, clean=0.0)
        return float(jax.jit(stage.loss)(params, frozen, jax.random.key(2), batch)[1]["l1"])

    image = batch["image"].astype(np.float32) / 127.5 - 1.0
    out, _, _ = jax.jit(MODEL.apply)({"params": frozen["vae"]["model"]}, image)
    assert error(0.0) == pytest.approx(float(jnp.abs(out - image).mean()), rel=1e-4)
    assert error(3.0) > error(0.5) > error(0.0)


def test_crops_are_windows_of_their_own_picture(batch):
    found = np.asarray(random_crops(jax.random.key(0), batch["image"], 12, 12))
    for crop, picture in zip(found, np.asarray(batch["image"]), strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(picture, (12, 12), (0, 1)).transpose(0, 1, 3, 4, 2)
        assert (windows == crop).all((2, 3, 4)).any()
