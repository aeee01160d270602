"""What the upsampler is given: the latents of the large picture, and of the small one enlarged."""

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.models.clip import CLIP, TextTower, VisionTower
from t2i_jax.models.vae import AutoencoderKL
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.stages import UpsamplerStage, upsampler
from t2i_jax.stages.latents import downscale, encode

VAE = AutoencoderKL(channels=(8, 8), latent_channels=4, groups=4, attention=False)
SIGHT = CLIP(TextTower(vocab=300, width=16, depth=1, heads=2), VisionTower(width=16, depth=1, heads=2), 8)
STAGE = UpsamplerStage(vae=VAE, clip=SIGHT)


def drawn(image):
    """Frozen parameters for a stage that sees ``image``."""
    batch = {"image": image, "tokens": jnp.ones((len(image), 16), jnp.int32)}
    draw = lambda path, x: 0.3 * jax.random.normal(jax.random.key(len(jax.tree_util.keystr(path))), x.shape)
    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(STAGE.expects, jax.random.key(0), batch))


def test_both_latents_are_those_of_their_own_pictures():
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8))
    frozen = drawn(image)
    found = STAGE.image_features(frozen, image)
    latent = encode(VAE, frozen["vae"], image)
    large = STAGE.enlarged(frozen["vae"], encode(VAE, frozen["vae"], downscale(image, 2)))
    np.testing.assert_allclose(found["latent"], latent, rtol=1e-4, atol=1e-4 * float(jnp.abs(latent).max()))
    np.testing.assert_allclose(found["large"], large, rtol=1e-4, atol=1e-4 * float(jnp.abs(large).max()))
    assert float(jnp.abs(found["latent"] - found["large"]).max()) > 0.1


def test_latents_of_large_pictures_are_made_by_each_device_alone(monkeypatch):
    image = jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8))
    frozen, programs, results = drawn(image), [], []
    for large in (32 * 32 + 1, 32 * 32):
        monkeypatch.setattr(upsampler, "PIXELS", large)
        with jax.set_mesh(Mesh(data=8).build()):
            traced = jax.jit(lambda frozen, image: STAGE.image_features(frozen, image)).trace(frozen, image)
            programs.append(str(traced.jaxpr))
            results.append(traced.lower().compile()(frozen, image))
    assert ["shard_map" in program for program in programs] == [False, True]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *results)
