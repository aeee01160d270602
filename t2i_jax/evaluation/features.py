"""Named feature extractors: a distance between sets of pictures means nothing without the features it is taken in.

Two are in use. A run's own CLIP sees what the captions speak of, but belongs to the run. ``random_convolutions`` is
fixed for ever (no training, frozen random numbers), so its distances compare runs; random filters with pooled means
and spreads see colour and texture (Ustyuzhaninov et al. 2017, "What does it take to generate natural textures?").
Neither is Inception, so no distance here compares with a published FID.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

_SIDE, _WIDTHS = 64, (3, 16, 32, 64)


@dataclass(frozen=True)
class Extractor:
    """A function from uint8 pictures [b,h,w,3] to features [b,d], and the name that goes with its numbers."""

    name: str
    function: Callable[[np.ndarray], np.ndarray]

    def __call__(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b d"]:
        """Features in float64. Raises ValueError that names the extractor where one is not finite."""
        features = np.asarray(self.function(images), np.float64)
        if not np.isfinite(features).all():
            raise ValueError(f"features of extractor {self.name!r} are not finite for {len(images)} pictures")
        return features


def random_convolutions() -> Extractor:
    """Three layers of fixed random 3 x 3 filters, stride 2, ReLU; of each layer the mean and the spread of every
    channel: 224 features of a picture brought to 64 x 64."""
    # RandomState's stream is frozen by numpy's policy; default_rng's is not
    random = np.random.RandomState(64)
    filters = [random.standard_normal((9 * a, b)) / np.sqrt(4.5 * a) for a, b in pairwise(_WIDTHS)]

    def extract(images: np.ndarray) -> np.ndarray:
        return np.concatenate([_pooled(images[i : i + 128], filters) for i in range(0, len(images), 128)])

    return Extractor("random-conv-64", extract)


def _pooled(images: np.ndarray, filters: list[np.ndarray]) -> np.ndarray:
    if images.shape[1:3] != (_SIDE, _SIDE):
        images = np.stack([np.asarray(Image.fromarray(i).resize((_SIDE, _SIDE), Image.Resampling.BOX)) for i in images])
    x = images.astype(np.float64) / 127.5 - 1.0
    pooled = []
    for weights in filters:
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2]
        x = np.maximum(patches.reshape(*patches.shape[:3], -1) @ weights, 0.0)
        pooled += [x.mean(axis=(1, 2)), x.std(axis=(1, 2))]
    return np.concatenate(pooled, axis=1)
