"""Does the right caption find the right picture? Ranks by cosine of CLIP embeddings.

``recalls`` is CLIP's own test on real pairs: R@k is the share of queries whose partner is among the k nearest
(Radford et al. 2021, section 3.1). ``retrieval_among`` asks of generated pictures whether their caption is nearer to
them than 99 other captions ("R-precision", Xu et al. 2018, "AttnGAN", section 4). Ties count against the partner, so
that a collapsed embedding scores 0 and not 1.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def unit(embedding: Float[np.ndarray, "b e"]) -> Float[np.ndarray, "b e"]:
    """Rows of length 1, float64."""
    x = np.asarray(embedding, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def recalls(
    image: Float[np.ndarray, "b e"],
    text: Float[np.ndarray, "b e"],
    captions: Sequence[str],
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, dict[str, float]]:
    """R@k from picture to caption and from caption to picture over b pairs; row i of both belongs together.

    ``captions`` [b]: pictures with the same caption are each other's right answers too.
    """
    names = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    label = np.array([names[caption] for caption in captions])
    same = label[:, None] == label
    similarity = unit(image) @ unit(text).T
    ranks = {"image_to_text": _ranks(similarity, same), "text_to_image": _ranks(similarity.T, same)}
    return {way: {f"R@{k}": float((rank < k).mean()) for k in ks} for way, rank in ranks.items()}


def retrieval_among(
    image: Float[np.ndarray, "b e"],
    text: Float[np.ndarray, "b e"],
    captions: Sequence[str],
    candidates: int = 100,
    seed: int = 0,
) -> dict[str, float]:
    """How often a picture's own caption is the first, and among the first ten, of ``candidates`` captions.

    Row i of ``image``, ``text`` and ``captions`` belongs together; the other candidates - 1 captions are drawn by
    ``seed`` from the distinct other captions. With fewer captions than that all are taken; ``candidates`` of the
    result is the number in use. Raises ValueError for fewer than two distinct captions.
    """
    first_place = {caption: i for i, caption in reversed(list(enumerate(captions)))}
    if len(first_place) < 2:
        raise ValueError("retrieval among captions needs at least two distinct captions")
    distinct = np.array(sorted(first_place.values()))
    candidates = min(candidates, len(distinct))
    random = np.random.default_rng(seed)
    similarity = unit(image) @ unit(text).T
    ranks = []
    for i, caption in enumerate(captions):
        others = random.choice(distinct[distinct != first_place[caption]], candidates - 1, replace=False)
        ranks.append(int((similarity[i, others] >= similarity[i, i]).sum()))
    ranks = np.array(ranks)
    return {"first": float((ranks == 0).mean()), "ten": float((ranks < 10).mean()), "candidates": candidates}


def _ranks(similarity: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Place (from 0) of the best right answer of each row, behind every wrong answer that scores as much."""
    best = np.where(right, similarity, -np.inf).max(axis=1, keepdims=True)
    return ((similarity >= best) & ~right).sum(axis=1)
