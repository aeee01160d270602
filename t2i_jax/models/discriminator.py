"""The patch discriminator: which squares of a picture look painted and which look real.

A convolutional network whose every output sees one square of the picture (Isola et al.,
https://arxiv.org/abs/1611.07004, section 3.2.2), so that it judges texture and edges and leaves the content to the
other losses. The VAE is trained against it as in Esser et al. (https://arxiv.org/abs/2012.09841, section 3.1).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t2i_jax.models.conv import Conv, GroupNorm
from t2i_jax.types import Image


class PatchDiscriminator(nn.Module):
    """Pictures in [-1, 1] [b, h, w, 3] -> logits [b, h/4, w/4], positive where a place looks real.

    ``channels``: features of the three layers, at a half, a quarter and a quarter of the picture's side. ``groups``: of
    the group norms, must divide the second and third. Each logit sees a square of 26 pixels (and the norms' means).
    """

    channels: tuple[int, int, int] = (48, 96, 96)
    groups: int = 8
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image: Image) -> Float[Array, "b i j"]:
        first, *rest = self.channels
        halve = ((1, 1), (1, 1))
        x = Conv(first, size=4, stride=2, padding=halve, dtype=self.dtype, name="conv_in")(image)
        x = nn.leaky_relu(x, 0.2)
        for i, features in enumerate(rest):
            kind = {"size": 4, "stride": 2, "padding": halve} if i == 0 else {}
            x = Conv(features, dtype=self.dtype, name=f"conv_{i}", **kind)(x)
            x = nn.leaky_relu(GroupNorm(self.groups, dtype=self.dtype, name=f"norm_{i}")(x), 0.2)
        return Conv(1, dtype=self.dtype, name="conv_out")(x)[..., 0].astype(jnp.float32)


def hinge(real: Float[Array, "b i j"], painted: Float[Array, "b i j"]) -> Array:
    """The discriminator's loss (Lim & Ye, https://arxiv.org/abs/1705.02894): 2 where it tells nothing apart."""
    return jax.nn.relu(1.0 - real).mean() + jax.nn.relu(1.0 + painted).mean()
