"""Fréchet distance between two sets of pictures, in the features of a named extractor, in float64.

Each set is taken for a Gaussian N(m, C) with the sample mean and the unbiased sample covariance of its features:

    d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2)

(Dowson & Landau 1982, "The Fréchet distance between multivariate normal distributions"; Heusel et al. 2017, eq. 6).
The trace of the last root is the sum of the singular values of ``C1^1/2 C2^1/2``, and the two roots are of symmetric
positive semi-definite matrices, taken by eigenvalues: no complex numbers, no jitter. Eigenvalues that are rounding
alone count as 0, since a root makes 1e-16 into 1e-8; so fewer pictures than features are fine.

The estimate is biased upwards by the number of pictures, so compare only equal counts and give the distance of as
many real pictures beside it (Chong & Forsyth 2020, "Effectively unbiased FID").
"""

import numpy as np
from jaxtyping import Float


def moments(features: Float[np.ndarray, "b d"]) -> tuple[Float[np.ndarray, "d"], Float[np.ndarray, "d d"]]:
    """Mean [d] and unbiased covariance [d, d] in float64. Raises ValueError for fewer than two rows."""
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 pictures, got {len(features)}")
    x = np.asarray(features, np.float64)
    mean = x.mean(axis=0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def frechet_from_moments(
    mean1: Float[np.ndarray, "d"],
    covariance1: Float[np.ndarray, "d d"],
    mean2: Float[np.ndarray, "d"],
    covariance2: Float[np.ndarray, "d d"],
) -> float:
    """The squared Fréchet distance d^2 of two Gaussians ("FID" is this square)."""
    cross = np.linalg.svd(_root(covariance1) @ _root(covariance2), compute_uv=False).sum()
    distance = np.sum((mean1 - mean2) ** 2) + np.trace(covariance1) + np.trace(covariance2) - 2.0 * cross
    return float(max(distance, 0.0))


def frechet_distance(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """The squared Fréchet distance of two sets of features, 0 for equal sets."""
    return frechet_from_moments(*moments(a), *moments(b))


def _root(covariance: np.ndarray) -> np.ndarray:
    covariance = np.asarray(covariance, np.float64)
    values, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
    rounding = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return (vectors * np.sqrt(np.where(values > rounding, values, 0.0))) @ vectors.T
