"""The decoder's conditions: dropping the text hides all of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.diffusion import Euler, Guidance
from t2i_jax.models.clip import CLIP, TextTower, VisionTower
from t2i_jax.models.mmdit import MMDiT
from t2i_jax.models.vae import AutoencoderKL
from t2i_jax.stages import DecoderStage

STAGE = DecoderStage(
    MMDiT(patch=1, in_channels=4, out_channels=4, width=8, depth=2, heads=1, context_width=8, pooled_width=12, grid=2),
    AutoencoderKL(channels=(4, 4), latent_channels=4, groups=2),
    CLIP(TextTower(40, 6, 8, 1, 1), VisionTower(image_size=16, patch=8, width=8, depth=1, heads=1), 4),
)


@pytest.mark.parametrize("read", ["words", "bag"])
def test_what_is_read_of_a_caption_counts_until_the_text_is_dropped(read):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32))
    batch = {"latent": draw(2, 2, 2, 4), "image_embedding": draw(2, 4), "words": draw(2, 6, 8), "bag": draw(2, 8)}
    tokens = {"tokens": np.zeros((2, 6), np.int32)}
    params = jax.tree.map(lambda x: draw(*x.shape), jax.eval_shape(STAGE.init, jax.random.key(0), tokens))
    other = batch | {read: draw(*batch[read].shape)}
    for drop, same in ((0.0, False), (1.0, True)):
        stage = dataclasses.replace(STAGE, drop_text=drop)
        loss = jax.jit(lambda given, stage=stage: stage.loss(params, {}, jax.random.key(1), given)[0])
        assert (loss(batch) == loss(other)) == same


def test_pictures_go_as_far_for_the_image_embedding_as_its_own_guidance_says():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape, np.float32))
    condition = {"image_embedding": draw(2, 4), "words": draw(2, 6, 8), "bag": draw(2, 8)}
    other = condition | {"image_embedding": draw(2, 4)}
    tokens = {"tokens": np.zeros((2, 6), np.int32)}
    params = jax.tree.map(lambda x: 0.1 * draw(*x.shape), jax.eval_shape(STAGE.init, jax.random.key(0), tokens))

    def paint(image_guidance, given=condition):
        stage = dataclasses.replace(STAGE, guidance=Guidance(3.0), image_guidance=image_guidance, sampler=Euler(2))
        return stage.sample(params, jax.random.key(1), given, 2)

    np.testing.assert_array_equal(paint(0.0), paint(0.0, other))
    assert np.abs(paint(1.0) - paint(1.0, other)).max() > 1e-3
    np.testing.assert_allclose(paint(3.0), paint(None), atol=1e-4)
