"""Three checks that a falling loss hides, each a few numbers and a verdict ``ok``.

- ``prior_match``: does the prior draw what CLIP would have seen? Norms and spread as those of real embeddings, and
  nearer to the caption's own picture than to another's. A prior that is bypassed, unscaled or collapsed fails.
- ``condition_used``: are pictures better for their own caption than for another one? If not, the condition is ignored.
- ``neighbours``: which training pictures lie nearest to a sample? Much nearer than to held-out pictures is copying.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from t2i_jax.evaluation.precision_recall import squared_distances
from t2i_jax.evaluation.retrieval import unit

SAME = 2.0
"""Pictures that differ by less than so many grey levels (see ``Neighbours``) are the same one, saved twice."""
_SIDE = 16
_CHUNK = 512


def prior_match(drawn: Float[np.ndarray, "b e"], real: Float[np.ndarray, "b e"], seed: int = 0) -> dict:
    """Prior draws against CLIP embeddings of the real pictures of the same captions, row by row.

    ``norm_ratio``: mean norm of the draws over that of the real ones. ``spread_ratio``: standard deviation around the
    mean embedding, likewise. ``cosine`` to the own picture, ``cosine_other`` to another caption's.
    ok: both ratios within a factor of 1.5 and cosine > cosine_other by more than 3 standard errors.
    """
    other = derangement(len(drawn), seed)
    own = (unit(drawn) * unit(real)).sum(1)
    difference = own - (unit(drawn) * unit(real[other])).sum(1)
    norm = float(np.linalg.norm(drawn, axis=1).mean() / np.linalg.norm(real, axis=1).mean())
    spread = float(np.sqrt(drawn.var(axis=0).sum() / real.var(axis=0).sum()))
    margin = _margin(difference)
    return {
        "norm_ratio": norm,
        "spread_ratio": spread,
        "cosine": float(own.mean()),
        "cosine_other": float((own - difference).mean()),
        "standard_errors": margin,
        "ok": 1 / 1.5 < norm < 1.5 and 1 / 1.5 < spread < 1.5 and margin > 3,
    }


def condition_used(image: Float[np.ndarray, "b e"], text: Float[np.ndarray, "b e"], seed: int = 0) -> dict:
    """CLIP score (cosine) of pictures with their own caption and with captions shuffled among them.

    ok: the own caption scores higher by more than 3 standard errors of the paired difference.
    """
    other = derangement(len(image), seed)
    own = (unit(image) * unit(text)).sum(1)
    shuffled = (unit(image) * unit(text[other])).sum(1)
    margin = _margin(own - shuffled)
    return {
        "score": float(own.mean()),
        "score_shuffled": float(shuffled.mean()),
        "standard_errors": margin,
        "ok": margin > 3,
    }


@dataclass(frozen=True)
class Neighbours:
    """For each query its nearest training pictures, nearest first."""

    index: Int[np.ndarray, "b k"]
    distance: Float[np.ndarray, "b k"]
    """Root mean square difference of the pictures at 16 x 16, in grey levels of 255."""


def neighbours(queries: UInt8[np.ndarray, "b h w 3"], training: UInt8[np.ndarray, "n h w 3"], k: int = 3) -> Neighbours:
    """The k training pictures nearest to each query, compared at 16 x 16, so that a shifted edge counts little."""
    small, pool = _shrink(queries), _shrink(training)
    index, distance = [], []
    for i in range(0, len(small), _CHUNK):
        square = squared_distances(small[i : i + _CHUNK], pool)
        nearest = np.argsort(square, axis=1, kind="stable")[:, :k]
        index.append(nearest)
        distance.append(np.sqrt(np.take_along_axis(square, nearest, axis=1) / small.shape[1]))
    return Neighbours(np.concatenate(index), np.concatenate(distance))


def copying(samples: Neighbours, held_out: Neighbours) -> dict:
    """Nearest-training-picture distances of samples beside those of real pictures that were held out.

    ``copied``: share of samples nearer to a training picture than 99 % of the held-out pictures are. Of those
    ``held_out_repeats`` stand in the training split too (distance below ``SAME``) and don't count: they would make
    the threshold 0, which no copy is below. ok: at most a tenth; a model that drew new pictures as real ones are drawn
    would have about 1 %.
    """
    real = held_out.distance[:, 0]
    new = real[real >= SAME]
    threshold = float(np.quantile(new, 0.01)) if len(new) else SAME
    copied = float((samples.distance[:, 0] < threshold).mean())
    return {
        "median_distance": float(np.median(samples.distance[:, 0])),
        "median_distance_held_out": float(np.median(real)),
        "held_out_repeats": len(real) - len(new),
        "threshold": threshold,
        "copied": copied,
        "ok": copied <= 0.1,
    }


def derangement(n: int, seed: int = 0) -> Int[np.ndarray, "n"]:
    """A seeded permutation of n >= 2 places that leaves none where it is."""
    if n < 2:
        raise ValueError(f"shuffling needs at least 2 captions, got {n}")
    order = np.random.default_rng(seed).permutation(n)
    shuffled = np.empty(n, int)
    shuffled[order] = np.roll(order, 1)
    return shuffled


def _margin(difference: np.ndarray) -> float:
    """The mean of paired differences in standard errors."""
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return float(difference.mean() / max(error, 1e-12))


def _shrink(images: np.ndarray) -> np.ndarray:
    """Pictures averaged over a 16 x 16 grid of boxes (or as they are where that does not fit), flattened, float64."""
    b, h, w, c = images.shape
    if h % _SIDE or w % _SIDE:
        return images.reshape(b, -1).astype(np.float64)
    return images.reshape(b, _SIDE, h // _SIDE, _SIDE, w // _SIDE, c).mean(axis=(2, 4), dtype=np.float64).reshape(b, -1)
