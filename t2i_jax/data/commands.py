"""What `t2i data build | tokenizer | inspect` do."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from t2i_jax.data.build import SKIPPED
from t2i_jax.data.build import build as build_data
from t2i_jax.data.dataset import load_dataset
from t2i_jax.data.ops import may_flip
from t2i_jax.data.pictures import MAX_PIXELS, BadPicture, open_header
from t2i_jax.text.tokenizer import Tokenizer

_SAMPLE = 10_000


def build(
    source: Annotated[str, tyro.conf.Positional],
    out: str,
    name: str | None = None,
    version: str = "1.0.0",
    holdout: float = 0.0,
    max_pixels: int = MAX_PIXELS,
    group: int = 1,
) -> None:
    """Make a data set of captioned pictures: a folder with a .txt beside each picture, or Parquet.

    Pictures that can't be used are left out, counted and listed in OUT/VERSION/skipped.jsonl.

    Args:
        source: Folder of pictures, each with a .txt of the same name, one caption a line; or a .parquet file or
            folder of them, with columns image and captions (or caption, text).
        out: Directory of the data set; give it to --data.dataset afterwards.
        name: Name of the data set; default: the last part of OUT.
        version: Three numbers with dots.
        holdout: Share of the pictures, 0 to 1, that becomes the split "val" instead of "train".
        max_pixels: Pictures with more pixels than this are left out, before they are decoded.
        group: Records compressed together: 16 makes a data set of tiny pictures smaller.
    """
    manifest = build_data(source, out, name, version, holdout, max_pixels, group=group)
    for split, facts in manifest["splits"].items():
        print(f"{split}: {facts['records']:,} pictures, {facts['bytes'] / 1e6:.1f} MB")
    print(f"{manifest['captions']:,} captions in all; written to {Path(out) / version}")
    if manifest["skipped"]:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in manifest["skipped"].items())
        print(f"left out {sum(manifest['skipped'].values()):,}: {reasons}; listed in {Path(out) / version / SKIPPED}")


def tokenizer(dataset: Annotated[str, tyro.conf.Positional], out: str, split: str = "train", vocab: int = 3072) -> None:
    """Train a SentencePiece tokenizer on a data set's captions; the same captions give the same file.

    Args:
        dataset: "emoji64", a data set's directory, or a TFDS name prepared on this machine.
        out: File to write, such as RUN/tokenizer.model.
        split: Split whose captions are used.
        vocab: Most pieces it may have, 260 of them for bytes and marks; few captions give fewer.
    """
    captions = [caption for row in load_dataset(dataset, split).captions for caption in row]
    trained = Tokenizer.train(captions, out, vocab)
    print(f"{out}: {trained.vocab} pieces from {len(captions):,} captions")
    print(f"tokens a caption, marks included: {_spread(trained.lengths(captions))}")


def inspect(dataset: Annotated[str, tyro.conf.Positional], split: str = "train", tokenizer: str | None = None) -> None:
    """Show what is in a data set: counts, picture sizes, captions and their lengths. Nothing is decoded.

    Of a large data set 10,000 evenly spaced examples are looked at.

    Args:
        dataset: "emoji64", a data set's directory, or a TFDS name prepared on this machine.
        split: Split to look at.
        tokenizer: A tokenizer.model; shows how many tokens captions have.
    """
    found = load_dataset(dataset, split)
    every = -(-len(found) // _SAMPLE)
    records = found.records(range(0, len(found), every))
    print(f"{found.name} {split}: {len(found):,} examples in {found.directory}, digest {found.digest[:16]}")
    if every > 1:
        print(f"looked at every {every}th example: {len(records):,}")
    kinds, sizes, bad = Counter(), [], Counter()
    for record in records:
        try:
            header = open_header(record["image"])
        except BadPicture as error:
            bad[error.reason] += 1
            continue
        kinds[f"{header.format} {header.mode}"] += 1
        sizes.append(header.size)
    if sizes:
        width, height = np.array(sizes).T
        print(f"pictures: {_counts(kinds)}; shorter side {_spread(np.minimum(width, height))}")
        print(f"width over height: {_spread(width / height)}")
    print(f"unusable by their headers: {_counts(bad) or 'none'}")
    captions = [record["captions"] for record in records]
    texts = [caption for row in captions for caption in row]
    print(f"captions a picture: {_spread(np.array([len(row) for row in captions]))}; without: {captions.count([])}")
    print(f"characters a caption: {_spread(np.array([len(text) for text in texts] or [0]))}")
    if tokenizer:
        print(f"tokens a caption, marks included: {_spread(Tokenizer.load(tokenizer).lengths(texts))}")
    print(f"may be mirrored: {np.mean([may_flip(row) for row in captions]):.0%}")
    for record in records[:: max(1, len(records) // 5)][:5]:
        print(f"  {record['key']}: {' | '.join(record['captions'])[:100]}")


def _spread(values: np.ndarray) -> str:
    low, middle, high, most = np.percentile(values, [0, 50, 99, 100])
    return f"{low:.4g} to {most:.4g}, median {middle:.4g}, 99% up to {high:.4g}"


def _counts(counter: Counter) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counter.most_common())
