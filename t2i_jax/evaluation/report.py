"""Writes an evaluation down: ``eval.json`` with every number and ``index.html``, one page that needs no other file.

The page shows samples beside the real picture of their caption, VAE originals beside reconstructions, the nearest
training pictures beside samples, and the guidance sweep; every number stands with the count and the extractor it is of.
"""

import json
import math
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from t2i_jax.evaluation.chart import line_chart
from t2i_jax.evaluation.page import PAGE, cell, section, table


@dataclass
class Figures:
    """The pictures of a report, uint8 [h,w,3] each."""

    samples: dict[str, list[tuple[str, np.ndarray, np.ndarray]]] = field(default_factory=dict)
    """By split: caption, painted picture, real picture."""
    reconstructions: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    """Original and reconstruction."""
    neighbours: dict[str, list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]] = field(default_factory=dict)
    """By split: caption, painted picture, its nearest training pictures [k,h,w,3], their distances [k]."""
    sweep: list[tuple[str, list[np.ndarray]]] = field(default_factory=list)
    """Caption, one picture a guidance scale."""


def write_report(results: dict[str, Any], figures: Figures, out: str | Path) -> Path:
    """Write both files into ``out`` (made if missing) and return the page's path."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "eval.json").write_text(json.dumps(_plain(results), indent=1, allow_nan=False) + "\n")
    page = out / "index.html"
    page.write_text(render(results, figures), encoding="utf-8")
    return page


def render(results: dict[str, Any], figures: Figures) -> str:
    """The whole page as HTML."""
    sections = [
        _verdicts(results),
        *(_samples(split, shown, results) for split, shown in figures.samples.items()),
        _vae(results, figures),
        _clip(results),
        _likeness(results),
        _sweep(results, figures),
        _checks(results, figures),
    ]
    lead = (
        f"Data set {results['dataset']}, seed {results['seed']}, guidance {results['guidance']:g}, t2i_jax "
        f"{results['t2i_jax']}. All numbers: eval.json."
    )
    return PAGE.format(
        title=f"Evaluation on {escape(str(results['dataset']))}", lead=escape(lead), body="".join(sections)
    )


def _verdicts(results: dict) -> str:
    names = {
        "prior_match": "The prior draws what CLIP sees",
        "condition_used": "The caption is used",
        "copying": "Pictures are not copies",
    }
    tiles = []
    for check, by_split in results["checks"].items():
        good = all(found["ok"] for found in by_split.values())
        word = "yes" if good else "no: see checks"
        tiles.append(
            f'<div class="tile {"good" if good else "bad"}"><b>{word}</b>{escape(names.get(check, check))}</div>'
        )
    for split, found in results["pictures"].items():
        first, candidates = found["retrieval"]["first"], found["retrieval"]["candidates"]
        words = escape(f"own caption first among {candidates}, {split}")
        tiles.append(f'<div class="tile"><b>{first:.0%}</b>{words}</div>')
    for split, found in results["vae"].items():
        tiles.append(f'<div class="tile"><b>{found["psnr"]:.1f} dB</b>VAE on {escape(split)}</div>')
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _samples(split: str, shown: list, results: dict) -> str:
    found = results["pictures"][split]
    cells = [cell(caption, [painted, real], ["painted", "real"]) for caption, painted, real in shown]
    retrieval, real = found["retrieval"], found["real"]["retrieval"]
    lead = (
        f"{len(shown)} of {found['captions']} captions of {split}{_fewer(found)}: painted on the left, the real "
        f"picture on the right. By this run's own CLIP, the own caption comes first among {retrieval['candidates']} "
        f"for {retrieval['first']:.1%} and within the first ten for {retrieval['ten']:.1%} (real pictures: "
        f"{real['first']:.1%} and {real['ten']:.1%}). It is the CLIP the cascade was trained with, so this flatters."
    )
    return section(f"Pictures for captions of {split}", lead, f'<div class="cells">{"".join(cells)}</div>')


def _fewer(found: dict) -> str:
    """How many captions were asked for, where a split had no more to give."""
    asked = found["captions_asked"]
    return f" ({asked} were asked for; the split is too small)" if found["captions"] < asked else ""


def _vae(results: dict, figures: Figures) -> str:
    rows = [(s, f["pictures"], f["psnr"], f["psnr_pooled"], f["ssim"]) for s, f in results["vae"].items()]
    head = ["split", "pictures", "PSNR (dB), mean", "PSNR of the mean error", "SSIM"]
    cells = [cell("", [a, b], ["original", "restored"]) for a, b in figures.reconstructions]
    lead = "Pictures through the VAE and back: the original on the left. No generator can be sharper than this."
    return section("Reconstruction by the VAE", lead, table(head, rows) + f'<div class="cells">{"".join(cells)}</div>')


def _clip(results: dict) -> str:
    rows = []
    for split, found in results["clip"].items():
        for way in ("image_to_text", "text_to_image"):
            rows.append((split, found["pairs"], way.replace("_", " "), *found[way].values()))
            head = ["split", "pairs", "way", *found[way]]
    return section("Retrieval by CLIP", "Share of queries whose partner is among the k nearest.", table(head, rows))


def _likeness(results: dict) -> str:
    head = [
        "captions of",
        "extractor",
        "features",
        "pictures",
        "reference",
        "Fréchet²",
        "of real ones",
        "precision",
        "recall",
    ]
    columns = ("features", "pictures", "reference_pictures", "frechet", "frechet_real", "precision", "recall")
    rows = [
        (split, name, *(measured[column] for column in columns))
        for split, found in results["pictures"].items()
        for name, measured in found["likeness"].items()
    ]
    lead = (
        "Squared Fréchet distance to training pictures that were not painted (at least half of the split is left for "
        "this), beside that of as many real pictures; precision and recall (k = 3) against the real pictures of the "
        "same captions. Not comparable with published FIDs: the extractors are named, and none is Inception."
    )
    return section("Likeness to real pictures", lead, table(head, rows))


def _sweep(results: dict, figures: Figures) -> str:
    sweep = results["sweep"]
    if not sweep:
        return ""
    scales = [row["scale"] for row in sweep]
    names = list(sweep[0]["likeness"])
    head = ["guidance", "CLIP score", "first", "first ten"]
    head += [f"{what}, {name}" for name in names for what in ("Fréchet²", "precision", "recall")]
    rows = [
        (f"{row['scale']:g}", row["clip_score"], row["retrieval"]["first"], row["retrieval"]["ten"])
        + tuple(row["likeness"][name][what] for name in names for what in ("frechet", "precision", "recall"))
        for row in sweep
    ]
    shares = {"own caption first": [row["retrieval"]["first"] for row in sweep]}
    shares |= {what: [row["likeness"][names[0]][what] for row in sweep] for what in ("precision", "recall")}
    charts = line_chart("Shares", "guidance", scales, shares)
    for name in names:
        charts += line_chart(
            f"Fréchet², {name}", "guidance", scales, {"Fréchet²": [r["likeness"][name]["frechet"] for r in sweep]}
        )
    cells = [cell(caption, pictures, [f"{s:g}" for s in scales]) for caption, pictures in figures.sweep]
    pictures = sweep[0]["likeness"][names[0]]["pictures"]
    lead = f"{pictures} held-out captions, the same noise at every scale. Under each picture its guidance."
    body = table(head, rows) + f'<div class="charts">{charts}</div><div class="cells wide">{"".join(cells)}</div>'
    return section("Guidance sweep", lead, body)


def _checks(results: dict, figures: Figures) -> str:
    leads = {
        "prior_match": "Prior draws beside CLIP embeddings of the captions' real pictures: norm and spread (ratio 1 is "
        "right), cosine to the own and to another caption's picture.",
        "condition_used": "CLIP score of pictures with their own caption and with captions shuffled among them.",
        "copying": "Distance to the nearest training picture (RMS grey levels at 16 × 16) of samples and of held-out "
        "real pictures; copied: nearer than 99 % of the held-out ones, of which repeats, that stand in the training "
        "split too (nearer than 2), are left out. Searched: so many training pictures, which of a "
        "large data set are some, evenly spaced; a copy of another one is not seen.",
    }
    body = ""
    for check, by_split in results["checks"].items():
        keys = [key for key in next(iter(by_split.values())) if key != "ok"]
        rows = [
            (split, *(found[key] for key in keys), "yes" if found["ok"] else "NO") for split, found in by_split.items()
        ]
        head = ["split", *(key.replace("_", " ") for key in keys), "ok"]
        body += f"<h3>{check.replace('_', ' ')}</h3><p>{escape(leads.get(check, ''))}</p>{table(head, rows)}"
    for split, shown in figures.neighbours.items():
        cells = [
            cell(caption, [painted, *near], ["painted", *(f"{d:.0f}" for d in distance)])
            for caption, painted, near, distance in shown
        ]
        body += f"<h3>Nearest training pictures, captions of {escape(split)}</h3><p>Beside each sample its nearest "
        body += f'training pictures with their distances.</p><div class="cells wide">{"".join(cells)}</div>'
    return section("Checks that a falling loss hides", "", body)


def _plain(value: Any) -> Any:
    """The same tree for JSON: numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
