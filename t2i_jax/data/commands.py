"""What `t2i data build | tokenizer | inspect` do."""

import os
import time
from pathlib import Path
from typing import Annotated, Literal

import tyro

from t2i_jax.data.build import SKIPPED, Duplicates
from t2i_jax.data.build import build as build_data
from t2i_jax.data.choose import Choice
from t2i_jax.data.dataset import load_dataset
from t2i_jax.data.inspect import inspect as look_at
from t2i_jax.data.inspect import spread
from t2i_jax.data.likeness import MOST_DISTANCE
from t2i_jax.data.page import write_page
from t2i_jax.data.runners import Beam, Processes
from t2i_jax.text.tokenizer import Tokenizer


def build(
    source: Annotated[str, tyro.conf.Positional],
    out: str,
    name: str | None = None,
    version: str = "1.0.0",
    holdout: float = 0.0,
    min_caption: int = Choice.min_caption,
    max_caption: int = Choice.max_caption,
    min_side: int = Choice.min_side,
    max_pixels: int = Choice.max_pixels,
    max_aspect: float = Choice.max_aspect,
    min_score: tuple[str, ...] = (),
    max_score: tuple[str, ...] = (),
    duplicates: Literal["keep", "exact", "near"] = "keep",
    near: int = MOST_DISTANCE,
    group: int = 1,
    workers: int = 0,
    beam: str | None = None,
) -> None:
    """Make a data set of captioned pictures; killed, the same command goes on where it was.

    What can't be used, or is not wanted, is left out, counted and listed in OUT/VERSION/skipped.jsonl.

    Args:
        source: Folder of pictures, each with a .txt of the same name, one caption a line, or with a metadata.jsonl;
            or WebDataset .tar, .parquet or .tfrecord files: one, or a folder of them. A local path, or what
            etils.epath opens. Or a data set: a directory of TFDS form, or a TFDS name prepared on this machine.
        out: Directory of the data set; give it to --data.dataset afterwards.
        name: Name of the data set; default: the last part of OUT.
        version: Three numbers with dots.
        holdout: Share of the pictures, 0 to 1, that becomes the split "val" instead of "train".
        min_caption: Characters of the shortest caption that is taken.
        max_caption: Characters of the longest.
        min_side: Pixels of the shorter side of the smallest picture that is taken.
        max_pixels: Pixels of the largest picture, by its header: a small file can decode to gigabytes.
        max_aspect: Longer side over shorter side of the longest picture that is taken.
        min_score: Columns of numbers and the least value of each, such as aesthetic=5 similarity=0.28.
        max_score: Columns of numbers and the greatest value of each, such as punsafe=0.1.
        duplicates: "exact" leaves out pictures with the pixels of an earlier one, "near" also those that nearly look
            like one.
        near: For "near", bits of 64 of a perceptual hash that may differ: 0 to 3.
        group: Records compressed together: 16 makes a data set of tiny pictures smaller.
        workers: Processes; 0 is one a core. The result is the same.
        beam: Options of an Apache Beam pipeline that does the work instead, such as "--runner=DirectRunner".
    """
    scores = _limits(min_score), _limits(max_score)
    choice = Choice(min_caption, max_caption, min_side, max_pixels, max_aspect, *scores)
    unique = None if duplicates == "keep" else Duplicates(near if duplicates == "near" else None)
    run = Processes(workers or os.cpu_count() or 1) if beam is None else Beam(beam)
    started = time.monotonic()
    manifest = build_data(source, out, name, version, holdout, choice, unique, group=group, run=run)
    total = sum(manifest["skipped"].values()) + sum(facts["records"] for facts in manifest["splits"].values())
    for split, facts in manifest["splits"].items():
        print(f"{split}: {facts['records']:,} pictures, {facts['bytes'] / 1e6:.1f} MB")
    seconds = time.monotonic() - started
    print(f"{manifest['captions']:,} captions in all; written to {Path(out) / version}")
    print(f"{total:,} pictures looked at in {seconds:.1f} s, {total / seconds:.0f} a second")
    if manifest["skipped"]:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in manifest["skipped"].items())
        print(f"left out {sum(manifest['skipped'].values()):,}: {reasons}; listed in {Path(out) / version / SKIPPED}")


def _limits(texts: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    """("aesthetic=5",) as names and numbers."""
    limits = []
    for text in texts:
        name, _, number = text.partition("=")
        try:
            limits.append((name, float(number)))
        except ValueError as error:
            raise ValueError(f"{text!r}: give a column of numbers and a limit, such as aesthetic=5") from error
    return tuple(limits)


def tokenizer(dataset: Annotated[str, tyro.conf.Positional], out: str, split: str = "train", vocab: int = 3072) -> None:
    """Train a SentencePiece tokenizer on a data set's captions; the same captions give the same file.

    Args:
        dataset: "emoji64", a data set's directory, or a TFDS name prepared on this machine.
        out: File to write, such as RUN/tokenizer.model; one that is there is not replaced.
        split: Split whose captions are used.
        vocab: Most pieces it may have, 260 of them for bytes and marks; few captions give fewer.
    """
    if Path(out).exists():
        raise ValueError(
            f"{out} is there already, and stages that were trained with it would read other words by another one: give "
            "another file to --out, or move it away"
        )
    captions = [caption for row in load_dataset(dataset, split).captions for caption in row]
    trained = Tokenizer.train(captions, out, vocab)
    print(f"{out}: {trained.vocab} pieces from {len(captions):,} captions")
    print(f"tokens a caption, marks included: {spread(trained.lengths(captions))}")


def inspect(
    dataset: Annotated[str, tyro.conf.Positional],
    split: str = "train",
    tokenizer: str | None = None,
    page: str | None = None,
) -> None:
    """Show what is in a data set: counts, sizes, shapes, captions and their lengths, repetitions, samples.

    Of a large data set 10,000 evenly spaced examples are looked at, and repetitions are sought among those.

    Args:
        dataset: "emoji64", a data set's directory, or a TFDS name prepared on this machine.
        split: Split to look at.
        tokenizer: A tokenizer.model; shows how many tokens captions have.
        page: An HTML file to write: the same, with pictures.
    """
    found = load_dataset(dataset, split)
    facts = look_at(found, Tokenizer.load(tokenizer) if tokenizer else None)
    print(facts.text())
    for record in found.records(range(0, len(found), max(1, len(found) // 5)))[:5]:
        print(f"  {record['key']}: {' | '.join(record['captions'])[:100]}")
    if page:
        write_page(facts, found, page)
        print(f"the page: {page}")
