"""Evaluates a cascade on its data set and writes the report: what ``t2i eval RUN`` does.

Everything is chosen by seed and the same at every run: which captions are painted, their noise, the other captions of
the retrieval test, the pictures of the report.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from t2i_jax import __version__
from t2i_jax.evaluation.checks import condition_used, copying, neighbours, prior_match
from t2i_jax.evaluation.features import Extractor, random_convolutions
from t2i_jax.evaluation.measure import faithfulness, guidance_sweep, likeness, reconstruction
from t2i_jax.evaluation.report import Figures, write_report
from t2i_jax.evaluation.retrieval import recalls
from t2i_jax.evaluation.subjects import Subjects, splits, subjects
from t2i_jax.parallel.hosts import leader
from t2i_jax.training.run import make_folder

LEAST = 8
"""Pictures and captions without which the statistics have no meaning."""


@runtime_checkable
class Cascade(Protocol):
    """What an evaluation needs of a cascade; ``t2i_jax.DallE2`` is one. Pictures are uint8 [n,h,w,3]."""

    image_size: int
    decoder: Any

    def __call__(self, captions: list[str], n: int = 1, seed: int = 0) -> np.ndarray: ...
    def clip_embed_images(self, images: np.ndarray) -> np.ndarray: ...
    def clip_embed_texts(self, captions: list[str]) -> np.ndarray: ...
    def prior_embed(self, captions: list[str], seed: int = 0) -> np.ndarray: ...
    def reconstruct(self, images: np.ndarray) -> np.ndarray: ...
    def guided(self, scale: float) -> "Cascade": ...


def evaluate(
    model: Cascade,
    dataset: str,
    out: str | Path,
    captions: int = 306,
    scales: Sequence[float] = (1.0, 1.5, 2.0, 3.0, 5.0),
    sweep_captions: int = 96,
    shown: int = 24,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure ``model`` on ``dataset``; write ``eval.json`` and ``index.html`` into ``out``; return the results.

    ``captions``: how many captions of the training split, at most half of it, and of the held-out split are painted;
    the other training pictures are the reference of the Fréchet distances. ``scales`` and ``sweep_captions``: the
    guidance sweep, on held-out captions. ``shown``: pictures of a kind on the page. Of several processes, which call
    this alike, the first one writes and says how far it is. Raises ValueError for fewer captions than 8, a data set
    without a held-out split, a split that is too small, or an ``out`` that is no folder.
    """
    if min(captions, sweep_captions) < LEAST:
        raise ValueError(f"captions={captions} and sweep_captions={sweep_captions} must both be at least {LEAST}")
    start = time.monotonic()
    if leader():
        make_folder(out)
    else:
        say = lambda _: None
    names = splits(dataset)
    real = {role: subjects(dataset, split, model.image_size) for role, split in names.items()}
    check_counts(real["train"], 2 * LEAST, "half of them are painted, the others are what they are compared with")
    check_counts(real["held_out"], LEAST, "all are painted")
    # of a small split half is left: real pictures that are their own reference would look better than any can be
    train, reference = real["train"].choose(min(captions, len(real["train"]) // 2), seed)
    targets = [train, real["held_out"].choose(captions, seed)[0]]
    few = targets[1].choose(sweep_captions, seed)[0]
    for chosen in (*targets, few):
        check_captions(chosen)
    extractors = [Extractor("this run's CLIP", model.clip_embed_images), random_convolutions()]
    references = {e.name: e(reference.images) for e in extractors}

    results: dict[str, Any] = {
        "dataset": dataset,
        "seed": seed,
        "t2i_jax": __version__,
        "guidance": float(model.decoder.guidance.scale),
        "extractors": [e.name for e in extractors],
    }
    figures = Figures()

    say("reconstruction by the VAE")
    results["vae"] = {}
    for held_out in (real[role] for role in ("held_out", "unseen") if role in real):
        restored = model.reconstruct(held_out.images)
        results["vae"][held_out.split] = reconstruction(held_out.images, restored)
        figures.reconstructions += list(zip(held_out.images, restored))[: shown // 2]

    say("retrieval by CLIP")
    pairs = real["held_out"].choose(1000, seed)[0]
    found = recalls(model.clip_embed_images(pairs.images), model.clip_embed_texts(pairs.captions), pairs.captions)
    results["clip"] = {pairs.split: found | {"pairs": len(pairs)}}

    results["pictures"], results["checks"] = {}, {"prior_match": {}, "condition_used": {}, "copying": {}}
    held_out_nearest = neighbours(real["held_out"].images, real["train"].images)
    for target in targets:
        say(f"painting {len(target)} captions of {target.split}")
        painted = model(target.captions, seed=seed)
        image, text = model.clip_embed_images(painted), model.clip_embed_texts(target.captions)
        results["pictures"][target.split] = {
            "captions": len(target),
            "captions_asked": captions,
            **faithfulness(image, text, target.captions, seed),
            "real": faithfulness(model.clip_embed_images(target.images), text, target.captions, seed),
            "likeness": {e.name: likeness(e, painted, target.images, references[e.name]) for e in extractors},
        }
        drawn = model.prior_embed(target.captions, seed)
        nearest = neighbours(painted, real["train"].images)
        checks = results["checks"]
        checks["prior_match"][target.split] = prior_match(drawn, model.clip_embed_images(target.images), seed)
        checks["condition_used"][target.split] = condition_used(image, text, seed)
        checks["copying"][target.split] = copying(nearest, held_out_nearest) | {"searched": len(real["train"])}
        rows = _spread_out(len(target), shown)
        figures.samples[target.split] = [(target.captions[i], painted[i], target.images[i]) for i in rows]
        figures.neighbours[target.split] = [
            (target.captions[i], painted[i], real["train"].images[nearest.index[i]], nearest.distance[i])
            for i in rows[: shown // 2]
        ]

    say(f"guidance sweep over {', '.join(f'{s:g}' for s in scales)} on {len(few)} captions of {few.split}")
    results["sweep"], pictures = guidance_sweep(
        lambda scale: model.guided(scale)(few.captions, seed=seed),
        scales,
        few,
        model.clip_embed_images,
        model.clip_embed_texts(few.captions),
        extractors,
        references,
        seed,
    )
    figures.sweep = [(few.captions[i], [p[i] for p in pictures]) for i in _spread_out(len(few), 8)]
    results["seconds"] = round(time.monotonic() - start, 1)
    if leader():
        say(f"report: {write_report(results, figures, out)}")
    return results


def check_counts(split: Subjects, least: int, why: str) -> None:
    """Raise ValueError where the split has fewer pictures than ``least``."""
    if len(split) < least:
        raise ValueError(
            f"the split {split.split} has {len(split)} pictures, and an evaluation needs {least} ({why}): build the "
            "data set from more pictures, or with another share in `t2i data build --holdout`"
        )


def check_captions(chosen: Subjects) -> None:
    """Raise ValueError where all pictures have one caption: no retrieval, no shuffling."""
    if len(set(chosen.captions)) < 2:
        raise ValueError(
            f"the {len(chosen)} pictures that were chosen of the split {chosen.split} all have the caption "
            f"{chosen.captions[0]!r}: an evaluation needs at least two. Build the data set with captions that tell "
            "its pictures apart, or with another share in `t2i data build --holdout`"
        )


def _spread_out(n: int, k: int) -> np.ndarray:
    """k places spread evenly over n."""
    return np.unique(np.linspace(0, n - 1, min(k, n)).round().astype(int))
