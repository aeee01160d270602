"""The KL autoencoder: pictures to a small grid of latents and back.

A convolutional variational autoencoder (Kingma & Welling, https://arxiv.org/abs/1312.6114) in the shape that latent
diffusion made common (Rombach et al., https://arxiv.org/abs/2112.10752, appendix G): residual blocks, one halving of
the grid between two entries of ``channels``, one attention in the middle. The same function as diffusers'
``AutoencoderKL`` with ``DownEncoderBlock2D`` / ``UpDecoderBlock2D``, so its weights fit that class.

    vae = AutoencoderKL(channels=(32, 64, 128, 128), latent_channels=8)
    mean, logvar = vae.apply(params, image, method="encode")     # [b, h/8, w/8, 8] each
    image = vae.apply(params, mean, method="decode")             # [b, h, w, 3], about [-1, 1]
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from t2i_jax.models.attention import attention
from t2i_jax.models.conv import Conv, DoublingConv, GroupNorm
from t2i_jax.models.dense import Dense
from t2i_jax.models.remat import INNER, MIXED, OUTER, QKV, Remat
from t2i_jax.types import Image, Latent

Grid = Float[Array, "b i j c"]  # latents beside the picture [b, h, w, 3] they belong to: i = h / factor
LOGVAR_RANGE = (-30.0, 20.0)
MANY = 4096
"""Places of a grid from which on its weights are never held. Those of a picture of 1,024 pixels are 16,384 squared:
written and read they cost a step of the second upsampler on v5e:16x16 another 16 ms, as planned."""


def sample(mean: Latent, logvar: Latent, rng: PRNGKeyArray | Array) -> Latent:
    """One draw ``mean + exp(logvar / 2) * noise`` from the diagonal Gaussian."""
    return mean + jnp.exp(0.5 * logvar) * jax.random.normal(rng, mean.shape, mean.dtype)


class Residual(nn.Module):
    """``x + conv(silu(norm(conv(silu(norm(x))))))``; a 1x1 convolution on the way around where the width changes."""

    features: int
    groups: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Array:
        y = GroupNorm(self.groups, silu=True, dtype=self.dtype, name="norm1")(x)
        y = checkpoint_name(Conv(self.features, dtype=self.dtype, name="conv1")(y), INNER)
        y = GroupNorm(self.groups, silu=True, dtype=self.dtype, name="norm2")(y)
        y = checkpoint_name(Conv(self.features, dtype=self.dtype, name="conv2")(y), OUTER)
        if x.shape[-1] != self.features:
            x = Conv(self.features, size=1, dtype=self.dtype, name="shortcut")(x)
        return x + y


class SpatialAttention(nn.Module):
    """Single-head attention over all places of the grid, with residual; softmax in float32."""

    groups: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Array:
        d = x.shape[-1]
        tokens = rearrange(GroupNorm(self.groups, dtype=self.dtype, name="norm")(x), "b h w c -> b (h w) c")
        q, k, v = (
            checkpoint_name(Dense(d, dtype=self.dtype, name=name)(tokens), QKV) for name in ("query", "key", "value")
        )
        if tokens.shape[1] >= MANY:
            mixed = attention(*(heads[:, :, None] for heads in (q, k, v)))[:, :, 0]
        else:
            logits = jnp.einsum("bqd,bkd->bqk", q, k, preferred_element_type=jnp.float32) * d**-0.5
            mixed = checkpoint_name(jnp.einsum("bqk,bkd->bqd", jax.nn.softmax(logits).astype(self.dtype), v), MIXED)
        return x + checkpoint_name(Dense(d, dtype=self.dtype, name="out")(mixed), OUTER).reshape(x.shape)


class Middle(nn.Module):
    """Residual, attention (optional), residual."""

    groups: int
    attention: bool
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Array:
        x = Residual(x.shape[-1], self.groups, self.dtype, name="residual_0")(x)
        if self.attention:
            x = SpatialAttention(self.groups, self.dtype, name="attention")(x)
        return Residual(x.shape[-1], self.groups, self.dtype, name="residual_1")(x)


class Stack(nn.Module):
    """``layers`` residual blocks, then ``resample``: "down" halves the grid, "up" doubles it, "" keeps it.

    Halving pads below and to the right only; doubling repeats each place, then convolves.
    """

    features: int
    layers: int
    groups: int
    resample: str = ""
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Array:
        for i in range(self.layers):
            x = Residual(self.features, self.groups, self.dtype, name=f"residual_{i}")(x)
        if self.resample == "down":
            x = Conv(self.features, stride=2, padding=((0, 1), (0, 1)), dtype=self.dtype, name="resample")(x)
        if self.resample == "up":
            x = DoublingConv(self.features, dtype=self.dtype, name="resample")(x)
        return x


class AutoencoderKL(nn.Module):
    """Autoencoder with ``channels[i]`` features at 1/2^i of the picture's size.

    ``layers``: residual blocks a level in the encoder (the decoder has one more). ``groups``: of the group norms, must
    divide every entry of ``channels``. ``attention``: one in the middle of encoder and decoder. ``quant``: 1x1
    convolutions between encoder, latent and decoder. ``remat``: what each level, the middle and the last norm keep for
    the backward pass.
    """

    channels: tuple[int, ...] = (32, 64, 128, 128)
    layers: int = 1
    latent_channels: int = 8
    groups: int = 16
    attention: bool = True
    quant: bool = False
    dtype: str = "float32"
    remat: Remat = Remat()

    def __post_init__(self):
        wrong = [c for c in self.channels if c % self.groups]
        if wrong or not self.channels:
            raise ValueError(
                f"AutoencoderKL: channels={self.channels} with groups={self.groups}: groups must divide every entry of "
                f"channels; choose groups among the common divisors"
            )
        super().__post_init__()

    @property
    def factor(self) -> int:
        """Picture side over latent side."""
        return 2 ** (len(self.channels) - 1)

    def setup(self):
        self.encoder = Encoder(**self._sizes(), out_channels=2 * self.latent_channels)
        self.decoder = Decoder(**self._sizes(), out_channels=3)
        if self.quant:
            self.quant_conv = Conv(2 * self.latent_channels, size=1, dtype=self.dtype)
            self.post_quant_conv = Conv(self.latent_channels, size=1, dtype=self.dtype)

    def _sizes(self) -> dict:
        names = ("channels", "layers", "groups", "attention", "dtype", "remat")
        return {name: getattr(self, name) for name in names}

    def encode(self, image: Image) -> tuple[Grid, Grid]:
        """Pictures in [-1, 1] -> mean and log variance of the latents, float32 [b, h/factor, w/factor, c] each.

        Raises ValueError where a side of the picture is not a multiple of ``factor``.
        """
        _, h, w, _ = image.shape
        if h % self.factor or w % self.factor:
            raise ValueError(
                f"AutoencoderKL.encode: picture {h}x{w} with factor {self.factor} (channels={self.channels}): "
                f"both sides must be multiples of {self.factor}; resize or crop the picture"
            )
        moments = self.encoder(image)
        if self.quant:
            moments = self.quant_conv(moments)
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(logvar, *LOGVAR_RANGE)

    def decode(self, latent: Grid) -> Image:
        """Latents [b, h, w, c] -> pictures, float32 [b, h*factor, w*factor, 3], not clipped."""
        if self.quant:
            latent = self.post_quant_conv(latent)
        return self.decoder(latent).astype(jnp.float32)

    def __call__(self, image: Image, rng: PRNGKeyArray | Array | None = None) -> tuple[Image, Grid, Grid]:
        """(reconstruction, mean, log variance); decodes a draw from the posterior with ``rng``, else its mean."""
        mean, logvar = self.encode(image)
        return self.decode(mean if rng is None else sample(mean, logvar, rng)), mean, logvar


class Encoder(nn.Module):
    """Pictures -> moments; fields as in ``AutoencoderKL``."""

    channels: tuple[int, ...]
    layers: int
    groups: int
    attention: bool
    out_channels: int
    dtype: str = "float32"
    remat: Remat = Remat()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Array:
        stack, middle, norm = (self.remat(part, scanned=False) for part in (Stack, Middle, GroupNorm))
        x = Conv(self.channels[0], dtype=self.dtype, name="conv_in")(x)
        for i, features in enumerate(self.channels):
            resample = "down" if i + 1 < len(self.channels) else ""
            x = stack(features, self.layers, self.groups, resample, self.dtype, name=f"level_{i}")(x)
        x = middle(self.groups, self.attention, self.dtype, name="middle")(x)
        x = norm(self.groups, silu=True, dtype=self.dtype, name="norm_out")(x)
        return Conv(self.out_channels, dtype=self.dtype, name="conv_out")(x)


class Decoder(nn.Module):
    """Latents -> pictures; fields as in ``AutoencoderKL``; ``level_0`` is the coarsest."""

    channels: tuple[int, ...]
    layers: int
    groups: int
    attention: bool
    out_channels: int
    dtype: str = "float32"
    remat: Remat = Remat()

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Array:
        stack, middle, norm = (self.remat(part, scanned=False) for part in (Stack, Middle, GroupNorm))
        x = Conv(self.channels[-1], dtype=self.dtype, name="conv_in")(x)
        x = middle(self.groups, self.attention, self.dtype, name="middle")(x)
        for i, features in enumerate(reversed(self.channels)):
            resample = "up" if i + 1 < len(self.channels) else ""
            x = stack(features, self.layers + 1, self.groups, resample, self.dtype, name=f"level_{i}")(x)
        x = norm(self.groups, silu=True, dtype=self.dtype, name="norm_out")(x)
        return Conv(self.out_channels, dtype=self.dtype, name="conv_out")(x)
