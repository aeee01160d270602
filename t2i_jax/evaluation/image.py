"""How close two pictures are, pixel by pixel: PSNR and SSIM on [0, 255], one number a pair.

    PSNR = 10 log10(255^2 / MSE), the MSE over all pixels and channels; +inf for equal pictures
    SSIM = (2 m_x m_y + C1)(2 s_xy + C2) / ((m_x^2 + m_y^2 + C1)(s_x^2 + s_y^2 + C2))

with local means m, variances s^2 and covariance s_xy under a Gaussian window of 11 x 11 pixels and sigma 1.5,
``C1 = (0.01 * 255)^2``, ``C2 = (0.03 * 255)^2``, only where the whole window lies in the picture (Wang et al. 2004,
"Image Quality Assessment: From Error Visibility to Structural Similarity", eq. 13-16), on each of R, G, B, averaged.
"""

import numpy as np
from jaxtyping import Float, UInt8

WINDOW, SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_CHUNK = 64


def psnr(a: UInt8[np.ndarray, "b h w 3"], b: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b"]:
    """Peak signal-to-noise ratio of each pair in dB, [b]."""
    error = np.array([np.mean((x.astype(np.float64) - y) ** 2) for x, y in zip(a, b)])
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(255.0**2 / error)


def ssim(a: UInt8[np.ndarray, "b h w 3"], b: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b"]:
    """Structural similarity of each pair, [b] in [-1, 1]; 1 only for equal pictures.

    Raises ValueError for pictures smaller than the window.
    """
    if min(a.shape[1:3]) < WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {WINDOW} x {WINDOW} pixels, got {a.shape[1]} x {a.shape[2]}")
    starts = range(0, len(a), _CHUNK)
    parts = [_ssim(a[i : i + _CHUNK].astype(np.float64), b[i : i + _CHUNK].astype(np.float64)) for i in starts]
    return np.concatenate(parts)


def _ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    mean_x, mean_y = _blur(x), _blur(y)
    square_x, square_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    both = _blur(x * y) - mean_x * mean_y
    light = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * both + _C2) / (square_x + square_y + _C2)
    return (light * structure).mean(axis=(1, 2, 3))


def _blur(x: np.ndarray) -> np.ndarray:
    """The Gaussian-weighted local mean wherever the window fits: [b, h - 10, w - 10, c]."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    h, w = x.shape[1] - WINDOW + 1, x.shape[2] - WINDOW + 1
    rows = sum(weight * x[:, i : i + h] for i, weight in enumerate(weights))
    return sum(weight * rows[:, :, i : i + w] for i, weight in enumerate(weights))
