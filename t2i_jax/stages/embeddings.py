"""CLIP embeddings as the prior and the decoder see them, and the conditions that are dropped for guidance.

An embedding is divided by its norm and multiplied by sqrt(e), so that each component has mean square 1: the
diffusion prior's noise has the same size as what it hides (DALL-E 2's code scales by 17.2 for the same reason).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t2i_jax.models.clip import CLIP, look_up
from t2i_jax.types import Embedding, Features, Params, Pixels, Tokens, normalize


def unit(embedding: Float[Array, "*b e"]) -> Float[Array, "*b e"]:
    """Scales each row to norm sqrt(e)."""
    width = embedding.shape[-1]
    norm = jnp.linalg.norm(embedding.astype(jnp.float32), axis=-1, keepdims=True)
    return embedding * (width**0.5 / jnp.maximum(norm, 1e-6))


def image_embedding(clip: CLIP, params: Params, pixels: Pixels) -> Embedding:
    """uint8 pixels [b,h,w,3], resized to the tower's size where they are of another, to [b,e] of norm sqrt(e). Of
    pictures that are no squares the tower sees the one in the centre."""
    image, side = normalize(pixels), clip.vision.image_size
    h, w = image.shape[1:3]
    if h != w:
        short = min(h, w)
        image = image[:, (h - short) // 2 :, (w - short) // 2 :][:, :short, :short]
    if image.shape[1] != side:
        image = jax.image.resize(image, (len(image), side, side, 3), "linear")
    return unit(clip.apply({"params": params}, image, method="encode_image"))


def text_embedding(clip: CLIP, params: Params, tokens: Tokens) -> tuple[Features, Embedding]:
    """Tokens [b,l] to token features [b,l,d] and text embeddings [b,e] of norm sqrt(e)."""
    features, embedding = clip.apply({"params": params}, tokens, method="encode_text")
    return features, unit(embedding)


def word_embedding(clip: CLIP, params: Params, tokens: Tokens) -> Features:
    """Tokens [b,l] to the text tower's embeddings of token and place, before any layer mixes them: [b,l,d].

    Each row has norm sqrt(d). transformers' text model gives them, not scaled, as ``hidden_states[0]``.
    """
    tower = params["text_tower"]
    return unit(look_up(tower["token"], tokens, clip.text.dtype) + tower["position"][: tokens.shape[1]])


def bag_of_words(clip: CLIP, words: Features, tokens: Tokens) -> Embedding:
    """The mean of ``word_embedding`` over a caption's own tokens, padding left out: [b,d] of norm sqrt(d)."""
    own = (tokens != clip.text.pad)[..., None]
    return unit((words * own).sum(axis=1))


def keep(rng: Array, b: int, drop: float) -> Float[Array, "b"]:
    """1 for the examples that keep a condition, 0 for those (a share ``drop``) that lose it."""
    return jax.random.bernoulli(rng, 1.0 - drop, (b,)).astype(jnp.float32)
