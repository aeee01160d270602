"""Words as the decoder reads them: the same in every caption, each of one size."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.models.clip import CLIP, TextTower, VisionTower
from t2i_jax.stages.embeddings import bag_of_words, text_embedding, word_embedding

MODEL = CLIP(
    TextTower(vocab=40, context=6, width=16, depth=1, heads=2),
    VisionTower(image_size=16, patch=8, width=16, depth=1, heads=2),
    8,
)


def test_a_word_is_the_same_whatever_stands_beside_it():
    init = jax.jit(MODEL.init)
    params = init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 6), jnp.int32))["params"]
    captions = jnp.array([[2, 7, 9, 30, 1, 0], [2, 8, 9, 30, 1, 0]])
    words = jax.jit(partial(word_embedding, MODEL))(params, captions)
    np.testing.assert_array_equal(words[0, 2:], words[1, 2:])
    assert (words[0, 1] != words[1, 1]).any()
    np.testing.assert_allclose(jnp.square(words).mean(-1), 1.0, rtol=1e-5)
    features, _ = jax.jit(partial(text_embedding, MODEL))(params, captions)
    assert (features[0, 3] != features[1, 3]).any()  # what the text tower makes of the same word


def test_a_bag_of_words_is_the_mean_of_a_captions_own_words():
    init = jax.jit(MODEL.init)
    params = init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 6), jnp.int32))["params"]
    captions = jnp.array([[2, 7, 9, 1, 0, 0], [2, 7, 9, 30, 8, 1]])
    words = jax.jit(partial(word_embedding, MODEL))(params, captions)
    bag = jax.jit(partial(bag_of_words, MODEL))(words, captions)
    for found, mean in zip(bag, (words[0, :4].mean(0), words[1].mean(0)), strict=True):
        np.testing.assert_allclose(found, 4 * mean / jnp.linalg.norm(mean), rtol=1e-4, atol=1e-5)
