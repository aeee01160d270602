"""One unit of a source to records, on whichever process or machine: the parallel half of a build.

A unit leaves three files in ``units/``: its records one behind the other, a table of facts with a row for each, and a
JSON with names and with what was skipped. The JSON comes last and under its own name only when whole, so that a unit
is done or not begun, and doing it again gives the same bytes.
"""

import hashlib
import json
import os
import uuid
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from t2i_jax.data import form
from t2i_jax.data.choose import Choice
from t2i_jax.data.likeness import LIKENESS, likeness
from t2i_jax.data.pictures import BadPicture, standard
from t2i_jax.data.sources import Raw, Source, Unit

FACTS = np.dtype([
    ("bytes", "u4"), ("split", "u2"), ("kind", "u2"), ("captions", "u4"), ("size", "u4", 2), ("likeness", LIKENESS),
])  # fmt: skip
"""Of each record: its bytes; the numbers of its split and of its set of fields in the JSON; captions; height, width."""


@dataclass(frozen=True)
class Work:
    """What is the same for all units of a build."""

    source: Source
    directory: str
    holdout: float
    choice: Choice
    compare: bool
    """Whether likenesses are wanted."""


@dataclass(frozen=True)
class Done:
    """A finished unit, as read back."""

    splits: list[str]
    kinds: list[dict[str, bool]]
    """Sets of fields: the texts, and whether each is a list."""
    where: list[str]
    skipped: list[dict[str, str]]

    def reasons(self) -> Counter:
        """How many items were skipped, by reason."""
        return Counter(line["reason"] for line in self.skipped)


def unit_file(directory: str | Path, number: int, kind: str) -> Path:
    """Where a unit's ``records``, ``facts.npy`` or ``json`` stands."""
    return Path(directory, f"{number:06d}.{kind}")


def is_done(directory: str | Path, number: int) -> bool:
    """Whether the unit is finished."""
    return unit_file(directory, number, "json").is_file()


def read_done(directory: str | Path, number: int) -> tuple[Done, np.ndarray]:
    """A finished unit and its facts."""
    row = json.loads(unit_file(directory, number, "json").read_text())
    return Done(**row), np.load(unit_file(directory, number, "facts.npy"))


def convert(work: Work, task: tuple[int, Unit]) -> None:
    """Convert a unit, unless it is done."""
    number, unit = task
    if is_done(work.directory, number):
        return
    splits: dict[str, int] = {}
    kinds: dict[tuple, int] = {}
    facts, where, skipped = [], [], []
    own = uuid.uuid4().hex
    with Whole(unit_file(work.directory, number, "records"), own) as records, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow remarks on is counted, or harmless
        for place, item in work.source.read(unit):
            place = as_utf8(place)
            try:
                if isinstance(item, BadPicture):
                    raise item
                example, split, fact = _example(work, item)
            except BadPicture as error:
                skipped.append({"item": place, "reason": error.reason, "detail": as_utf8(str(error))})
                continue
            record = form.serialize(example)
            records.write(record)
            kind = tuple(sorted((name, isinstance(v, list)) for name, v in example.items() if name != "image"))
            fact["bytes"] = len(record)
            fact["split"] = splits.setdefault(split, len(splits))
            fact["kind"] = kinds.setdefault(kind, len(kinds))
            facts.append(fact)
            where.append(place)
    with Whole(unit_file(work.directory, number, "facts.npy"), own) as file:
        np.save(file, np.array(facts, FACTS))
    row = Done(list(splits), [dict(kind) for kind in kinds], where, skipped)
    with Whole(unit_file(work.directory, number, "json"), own) as file:
        file.write(json.dumps(row.__dict__).encode())


class Whole:
    """A file that appears under its name only when it is written whole and on the disk."""

    def __init__(self, path: Path, own: str):
        self._path, self._part = path, path.with_name(f".{path.name}.{own}")

    def __enter__(self):
        self._file = self._part.open("wb")
        return self._file

    def __exit__(self, kind, *_):
        self._file.flush()
        if kind is None:
            os.fsync(self._file.fileno())
        self._file.close()
        if kind is None:
            self._part.replace(self._path)
        else:
            self._part.unlink()


def as_utf8(text: str) -> str:
    """The text with characters that UTF-8 can't hold replaced: file names may have some."""
    return text.encode("utf-8", "replace").decode()


def _example(work: Work, raw: Raw) -> tuple[dict, str, np.void]:
    """An example, its split, and what is known of its facts. Raises BadPicture."""
    work.choice.check_scores(raw.scores)
    captions = work.choice.captions(raw.captions)
    image, picture = standard(raw.image, work.choice.max_pixels, work.choice.check_size)
    key = as_utf8(raw.key)
    split = raw.split
    if split == "train" and _share(key) < work.holdout:
        split = "val"
    fact = np.zeros((), FACTS)
    fact["captions"], fact["size"] = len(captions), (picture.height, picture.width)
    if work.compare:
        fact["likeness"] = likeness(picture)
    return {**raw.more, "image": image, "captions": captions, "key": key}, split, fact[()]


def _share(key: str) -> float:
    """A number in [0, 1) that belongs to the key."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
