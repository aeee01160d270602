"""Pictures to normalised latents and back, by a frozen VAE.

The generators see latents with mean 0 and standard deviation 1 per channel. The statistics are measured once, when
the VAE has been trained, and live beside its weights: ``params = {"model": ..., "mean": [c], "std": [c]}``.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from t2i_jax.models.vae import AutoencoderKL
from t2i_jax.stages.parts import by_parts
from t2i_jax.types import Image, Latent, Params, Pixels, normalize

PIXELS = 1 << 20
"""So many of its pictures' pixels a device encodes at once, or one picture: the first layers hold a hundred numbers
for each."""


def encode(vae: AutoencoderKL, params: Params, pixels: Pixels) -> Float[Array, "b i j c"]:
    """uint8 pixels [b,h,w,3] to the mean of the posterior, normalised per channel: [b,h/f,w/f,c]."""
    return encode_image(vae, params, normalize(pixels))


def encode_image(vae: AutoencoderKL, params: Params, image: Image) -> Float[Array, "b i j c"]:
    """``encode`` of a picture in [-1, 1]."""
    mean = by_parts(
        lambda part: vae.apply({"params": params["model"]}, part, method="encode")[0],
        image,
        PIXELS // (image.shape[1] * image.shape[2]),
    )
    return (mean - params["mean"]) / params["std"]


def decode(vae: AutoencoderKL, params: Params, latent: Latent, clip: bool = True) -> Float[Array, "b i j 3"]:
    """Normalised latents [b,h,w,c] to a picture [b,h*f,w*f,3] in [-1, 1]; not clipped there if ``clip`` is off."""
    latent = latent * params["std"] + params["mean"]
    picture = vae.apply({"params": params["model"]}, latent, method="decode")
    return jnp.clip(picture, -1.0, 1.0) if clip else picture


def downscale(pixels: Pixels, factor: int) -> UInt8[Array, "b i j 3"]:
    """Mean over ``factor`` x ``factor`` squares, rounded: the low-resolution picture that the decoder paints. Raises
    ValueError where they don't fill the picture."""
    _, h, w, _ = pixels.shape
    if h % factor or w % factor:
        raise ValueError(f"a picture of {h}x{w} can't be made {factor} times smaller: factor must divide both sides")
    # Not a mean of the reshaped picture: a TPU pads its last two dimensions, of factor and 3, to 8 x 128
    square = (1, factor, factor, 1)
    sums = jax.lax.reduce_window(pixels.astype(jnp.float32), 0.0, jax.lax.add, square, square, "VALID")
    return jnp.round(sums / factor**2).astype(jnp.uint8)


def random_crops(rng: Array, pixels: Pixels, height: int, width: int) -> UInt8[Array, "b i j 3"]:
    """A window of this size of each picture, anywhere in it.

    By products with zeros and ones, which are exact for bytes in any precision: a slice that begins elsewhere in every
    picture is a gather, for which XLA sends the windows of the whole batch to every device.
    """
    b, h, w, _ = pixels.shape
    rows, columns = jax.random.split(rng)
    chosen = lambda key, size, window: jax.nn.one_hot(
        jax.random.randint(key, (b,), 0, size - window + 1)[:, None] + jnp.arange(window), size
    )
    down, across = chosen(rows, h, height), chosen(columns, w, width)
    window = jnp.einsum("bih,bhwc->biwc", down, pixels.astype(jnp.float32))
    return jnp.einsum("bjw,biwc->bijc", across, window).astype(jnp.uint8)


def enlarge(vae: AutoencoderKL, params: Params, latent: Latent, factor: int) -> Float[Array, "b i j c"]:
    """Latents of a small picture [b,h,w,c] to those of the same picture ``factor`` times as large (bicubic)."""
    return encode_image(vae, params, enlarge_image(vae, params, latent, factor))


def enlarge_image(vae: AutoencoderKL, params: Params, latent: Latent, factor: int) -> Float[Array, "b i j 3"]:
    """The picture in [-1, 1] whose latents ``enlarge`` gives."""
    small = decode(vae, params, latent)
    b, h, w, c = small.shape
    large = jax.image.resize(small, (b, h * factor, w * factor, c), "bicubic")
    # Not rounded to pixels: a difference in the last bit, as another mesh makes it, would become one of a whole step.
    return jnp.clip(large, -1.0, 1.0)
