"""Improved precision and recall of generated pictures (Kynkäänniemi et al. 2019, eq. 1-3).

The real pictures' manifold is the union of balls around their features, each reaching to its k-th nearest real
neighbour. Precision is the share of generated pictures that lie in it (fidelity); recall the share of real pictures
that lie in the generated pictures' manifold (variety). k = 3 as in the paper.
"""

import numpy as np
from jaxtyping import Float

_CHUNK = 1024


def precision_recall(
    real: Float[np.ndarray, "n d"], generated: Float[np.ndarray, "m d"], k: int = 3
) -> tuple[float, float]:
    """(precision, recall), both in [0, 1]. Raises ValueError unless both sets have more than k pictures."""
    if min(len(real), len(generated)) <= k:
        raise ValueError(
            f"{k} neighbours need more than {k} pictures, got {len(real)} real, {len(generated)} generated"
        )
    return _share_inside(generated, real, k), _share_inside(real, generated, k)


def squared_distances(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """Squared Euclidean distances of all pairs, float64, rounding clipped at 0."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    # distances don't depend on the origin; near it the difference of large squares keeps its digits
    centre = b.mean(axis=0)
    a, b = a - centre, b - centre
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2.0 * a @ b.T, 0.0)


def _share_inside(points: np.ndarray, manifold: np.ndarray, k: int) -> float:
    radius = np.concatenate([
        # place 0 is the point itself
        np.partition(squared_distances(manifold[i : i + _CHUNK], manifold), k, axis=1)[:, k]
        for i in range(0, len(manifold), _CHUNK)
    ])  # fmt: skip
    # the same pair's distance differs in its last bits between the two products
    radius = radius * (1.0 + 1e-9) + 1e-12
    inside = [
        (squared_distances(points[i : i + _CHUNK], manifold) <= radius).any(axis=1)
        for i in range(0, len(points), _CHUNK)
    ]
    return float(np.concatenate(inside).mean())
