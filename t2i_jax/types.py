"""Names for the arrays and trees that cross rooms, and the two conversions of a picture's value range.

One letter a dimension, the same everywhere: ``b`` batch, ``h w c`` image, ``n`` image tokens, ``l`` text tokens,
``d`` width, ``k`` heads, ``e`` CLIP embedding.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

Pixels = UInt8[Array, "b h w 3"]
Image = Float[Array, "b h w 3"]
Latent = Float[Array, "b h w c"]
Tokens = Int[Array, "b l"]
Features = Float[Array, "b l d"]
Embedding = Float[Array, "b e"]
Time = Float[Array, "b"]
Params = Any
Batch = dict[str, Array]

BATCH_AXES = ("replica", "data")
"""Axes of the mesh that a batch is split over."""
MODEL_AXIS = "model"
"""Axis of the mesh that heads and MLP width are split over."""


def normalize(pixels: Pixels) -> Image:
    """uint8 pixels in [0, 255] to the models' float range [-1, 1]."""
    return pixels.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(image: Image) -> Pixels:
    """Models' range [-1, 1] to uint8 pixels, rounded and clipped."""
    return jnp.clip(jnp.round((image + 1.0) * 127.5), 0, 255).astype(jnp.uint8)
