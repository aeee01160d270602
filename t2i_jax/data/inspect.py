"""What is in a data set, as numbers: counts, sizes, shapes, captions, tokens, repetitions, what can't be used.

    facts = inspect(load_dataset("DATA/mine"), tokenizer)
    print(facts.text())

Of a large data set evenly spaced examples are looked at, so that the same data set gives the same facts.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from t2i_jax.data.dataset import Dataset, check
from t2i_jax.data.likeness import MOST_DISTANCE, Seen, likeness
from t2i_jax.data.ops import may_flip
from t2i_jax.data.pictures import BadPicture, decode, open_header
from t2i_jax.text.tokenizer import Tokenizer

_SAMPLE, _CHUNK, _WIDTH = 10_000, 64, 40
_SHAPES = (0.25, 0.5, 0.667, 0.8, 0.95, 1.05, 1.25, 1.5, 2.0, 4.0)


@dataclass
class Facts:
    """What was found. Lists have a number for each example looked at, or for each caption."""

    name: str
    split: str
    digest: str
    directory: str
    examples: int
    every: int
    looked: int = 0
    kinds: Counter = field(default_factory=Counter)
    bad: Counter = field(default_factory=Counter)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    captions: list[int] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    may_flip: int = 0
    same: list[tuple[str, str]] = field(default_factory=list)
    """Keys of a picture and of an earlier one with the same pixels."""
    near: list[tuple[str, str]] = field(default_factory=list)
    """The same for pictures that nearly look alike."""

    def shapes(self) -> list[tuple[str, int]]:
        """How many pictures have which width over height."""
        values = [width / height for width, height in self.sizes]
        counts = np.bincount(np.digitize(values, _SHAPES), minlength=len(_SHAPES) + 1).tolist()
        names = [f"below {_SHAPES[0]:g}", *(f"{a:g} to {b:g}" for a, b in pairwise(_SHAPES))]
        return list(zip([*names, f"{_SHAPES[-1]:g} and more"], counts))

    def rows(self) -> list[tuple[str, str]]:
        """Names and values, in words."""
        shorter = [min(size) for size in self.sizes]
        rows = [
            ("examples", f"{self.examples:,} in {self.directory}, digest {self.digest[:16]}"),
            ("looked at", f"{self.looked:,}" + (f", one in {self.every}" if self.every > 1 else ", all")),
            ("pictures", _counts(self.kinds)),
            ("shorter side", spread(shorter)),
            ("width over height", spread([width / height for width, height in self.sizes])),
            ("unusable", _counts(self.bad) or "none"),
            ("captions a picture", spread(self.captions) + f"; without: {self.captions.count(0)}"),
            ("characters a caption", spread(self.characters)),
        ]
        if self.tokens:
            rows.append(("tokens a caption, marks included", spread(self.tokens)))
        rows += [
            ("may be mirrored", f"{self.may_flip / max(1, self.looked):.0%}"),
            ("same pixels as an earlier one", _pairs(self.same)),
            ("nearly like an earlier one", _pairs(self.near)),
        ]
        return rows

    def text(self) -> str:
        """All of it for a terminal."""
        lines = [f"{self.name} {self.split}", *(f"  {name}: {value}" for name, value in self.rows())]
        most = max([1, *(count for _, count in self.shapes())])
        lines += ["  width over height, pictures:"]
        for name, count in self.shapes():
            lines.append(f"    {name:>14} {count:>9,} {'█' * round(_WIDTH * count / most)}".rstrip())
        return "\n".join(lines)


def inspect(dataset: Dataset, tokenizer: Tokenizer | None = None) -> Facts:
    """Look at up to 10,000 examples; each picture is decoded, at a small size where its format allows."""
    every = max(1, -(-len(dataset) // _SAMPLE))
    facts = Facts(
        dataset.name, dataset.split, dataset.digest, str(dataset.directory), len(dataset), every
    )  # fmt: skip
    seen, keys, indices = Seen(MOST_DISTANCE), [], range(0, len(dataset), every)
    for start in range(0, len(indices), _CHUNK):
        for record in dataset.records(indices[start : start + _CHUNK]):
            facts.looked += 1
            captions = record["captions"]
            facts.captions.append(len(captions))
            facts.characters += map(len, captions)
            facts.may_flip += may_flip(captions)
            if tokenizer and captions:
                facts.tokens += tokenizer.lengths(captions).tolist()
            try:
                check(record)
                header = open_header(record["image"])
                picture = decode(record["image"])
            except BadPicture as error:
                facts.bad[error.reason] += 1
                continue
            facts.kinds[f"{header.format} {header.mode}"] += 1
            facts.sizes.append(header.size)
            if twin := seen.twin(likeness(picture)):
                (facts.same if twin.exact else facts.near).append((record["key"], keys[twin.number]))
            keys.append(record["key"])
    return facts


def spread(values: list | np.ndarray) -> str:
    """Lowest, highest, median and 99th percentile, in words."""
    if not len(values):
        return "none"
    low, middle, high, most = np.percentile(values, [0, 50, 99, 100])
    return f"{low:.4g} to {most:.4g}, median {middle:.4g}, 99% up to {high:.4g}"


def _counts(counter: Counter) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counter.most_common())


def _pairs(pairs: list[tuple[str, str]]) -> str:
    if not pairs:
        return "0"
    shown = "; ".join(f"{key} like {twin}" for key, twin in pairs[:2])
    return f"{len(pairs):,}, such as {shown}"
