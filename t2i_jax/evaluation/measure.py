"""Measurements of one set of pictures, put together from the single ones: what becomes a row of the report.

A cascade is seen only through its callables (``clip_embed_images``, ``clip_embed_texts``, ``reconstruct``, itself).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from t2i_jax.evaluation.features import Extractor
from t2i_jax.evaluation.frechet import frechet_distance
from t2i_jax.evaluation.image import psnr, ssim
from t2i_jax.evaluation.precision_recall import precision_recall
from t2i_jax.evaluation.retrieval import retrieval_among, unit
from t2i_jax.evaluation.subjects import Subjects

Pictures = UInt8[np.ndarray, "b h w 3"]


def reconstruction(original: Pictures, restored: Pictures) -> dict[str, float | int]:
    """Means over pictures of PSNR (dB) and SSIM, and ``psnr_pooled``, the PSNR of the mean squared error of all.

    Equal pictures count as if one number differed by 1: a single one would make the means infinite.
    """
    most = 10.0 * np.log10(255.0**2 * np.prod(original.shape[1:]))
    each = np.minimum(psnr(original, restored), most)
    return {
        "pictures": len(original),
        "psnr": float(each.mean()),
        "psnr_pooled": float(-10.0 * np.log10(np.mean(10.0 ** (-each / 10.0)))),
        "ssim": float(ssim(original, restored).mean()),
    }


def faithfulness(
    image: Float[np.ndarray, "b e"], text: Float[np.ndarray, "b e"], captions: Sequence[str], seed: int
) -> dict[str, Any]:
    """CLIP score (mean cosine of picture and caption) and retrieval of the own caption among 100."""
    return {
        "clip_score": float((unit(image) * unit(text)).sum(1).mean()),
        "retrieval": retrieval_among(image, text, captions, seed=seed),
    }


def likeness(
    extractor: Extractor, painted: Pictures, real: Pictures, reference: Float[np.ndarray, "n d"]
) -> dict[str, float | int]:
    """How like real pictures a set is in one extractor's features.

    ``frechet``: distance of the painted set to the reference features; ``frechet_real``: that of the real pictures of
    the same captions, as many, which is what a perfect model would get. Precision and recall against those.
    """
    features, real_features = extractor(painted), extractor(real)
    precision, recall = precision_recall(real_features, features)
    return {
        "frechet": frechet_distance(features, reference),
        "frechet_real": frechet_distance(real_features, reference),
        "precision": precision,
        "recall": recall,
        "pictures": len(painted),
        "reference_pictures": len(reference),
        "features": int(features.shape[1]),
    }


def guidance_sweep(
    paint: Callable[[float], Pictures],
    scales: Sequence[float],
    subjects: Subjects,
    embed_images: Callable[[Pictures], np.ndarray],
    text: Float[np.ndarray, "b e"],
    extractors: Sequence[Extractor],
    references: dict[str, Float[np.ndarray, "n d"]],
    seed: int = 0,
) -> tuple[list[dict[str, Any]], list[Pictures]]:
    """The same captions and noise painted at every guidance scale: (a row of measurements a scale, the pictures)."""
    rows, pictures = [], []
    for scale in scales:
        painted = paint(scale)
        found = faithfulness(embed_images(painted), text, subjects.captions, seed)
        likenesses = {e.name: likeness(e, painted, subjects.images, references[e.name]) for e in extractors}
        rows.append({"scale": scale, **found, "likeness": likenesses})
        pictures.append(painted)
    return rows, pictures
