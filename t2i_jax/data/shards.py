"""The records of finished units to the files of a data set: who goes into which file, and writing one file.

The plan is made from the sizes of records alone, in the order of the source, so that it does not depend on who
converted what; each file is then written on its own, by any process, and appears under its name when it is whole.
"""

import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from t2i_jax.data import form
from t2i_jax.data.convert import read_done, unit_file


@dataclass(frozen=True)
class Shard:
    """A file of a split: its records stand between two places, each (unit, row), the last not included."""

    split: str
    file: str
    first: tuple[int, int]
    last: tuple[int, int]
    records: int
    bytes: int


@dataclass(frozen=True)
class Assembly:
    """What is the same for all files of a data set: where units and files are, fields, records compressed together."""

    units: str
    directory: str
    fields: tuple[tuple[str, bool], ...]
    group: int


def plan(units: str | Path, count: int, name: str, shard_bytes: int) -> dict[str, list[Shard]]:
    """The files of each split. A new one is begun after ``shard_bytes`` bytes of records."""
    cuts: dict[str, list[list]] = {}  # of each file: first place, last place, records, bytes
    for number in range(count):
        done, facts = read_done(units, number)
        sizes, names = facts["bytes"].tolist(), [done.splits[s] for s in facts["split"].tolist()]
        for row in np.flatnonzero(kept(units, number, len(facts))).tolist():
            files = cuts.setdefault(names[row], [])
            if not files or files[-1][3] >= shard_bytes:
                files.append([(number, row), None, 0, 0])
            files[-1][1] = (number, row + 1)
            files[-1][2] += 1
            files[-1][3] += sizes[row]
    return {
        split: [
            Shard(split, f"{name}-{split}.array_record-{i:05d}-of-{len(files):05d}", *cut)
            for i, cut in enumerate(files)
        ]
        for split, files in sorted(cuts.items())
    }


def kept(units: str | Path, number: int, rows: int) -> np.ndarray:
    """bool [rows]: which records of a unit are no duplicates."""
    path = unit_file(units, number, "kept.npy")
    return np.load(path) if path.is_file() else np.ones(rows, bool)


def write(assembly: Assembly, shard: Shard) -> None:
    """Write a file, and its digest beside the units, unless it is there."""
    path, digest = Path(assembly.directory, shard.file), Path(assembly.units, f"{shard.file}.sha256")
    if not path.is_file():
        part = Path(assembly.units, f".{shard.file}.{uuid.uuid4().hex}")
        form.write_file(part, _records(assembly, shard), assembly.group)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    digest.write_text(form.file_digest(path))


def digests(assembly: Assembly, shards: Sequence[Shard]) -> dict[str, str]:
    """The digests of written files."""
    return {shard.file: Path(assembly.units, f"{shard.file}.sha256").read_text() for shard in shards}


def _records(assembly: Assembly, shard: Shard) -> Iterator[bytes]:
    (first, start), (last, end) = shard.first, shard.last
    for number in range(first, last + 1):
        done, facts = read_done(assembly.units, number)
        ends = np.cumsum(facts["bytes"], dtype=np.int64)
        chosen = kept(assembly.units, number, len(facts))
        chosen &= facts["split"] == (done.splits.index(shard.split) if shard.split in done.splits else -1)
        chosen[: start if number == first else 0] = False
        chosen[end if number == last else len(facts) :] = False
        missing = [{n: many for n, many in assembly.fields if n not in kind} for kind in done.kinds]
        with unit_file(assembly.units, number, "records").open("rb") as file:
            for row in np.flatnonzero(chosen).tolist():
                size = int(facts["bytes"][row])
                file.seek(int(ends[row]) - size)
                record = file.read(size)
                if len(record) < size:
                    raise ValueError(f"{file.name} is too short: remove its folder and build anew")
                yield form.complete(record, missing[int(facts["kind"][row])])
