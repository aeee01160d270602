"""Any source of captioned pictures into the one form that training reads (see form.py).

    t2i data build PICTURES --out DATA/mine        then   --data.dataset DATA/mine

The source is cut into units; processes, or machines, convert them (convert.py); this process then finds repetitions
(likeness.py), and the units' records go into the files of the data set (shards.py). Nothing depends on who did what,
or on an interruption: the same source and settings give the same bytes. What is done stays in ``OUT/.VERSION.part``
until the data set appears under its name, whole; until then the same command goes on from there.

A picture that can't be used is skipped, counted by reason in the manifest and listed in ``skipped.jsonl``.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import PIL

from t2i_jax import __version__
from t2i_jax.data import form, shards
from t2i_jax.data.choose import Choice
from t2i_jax.data.convert import Work, convert, is_done, read_done, unit_file
from t2i_jax.data.likeness import Seen
from t2i_jax.data.runners import Processes, Runner
from t2i_jax.data.sources import Source, Unit, source_of

SKIPPED = "skipped.jsonl"
EXACT, NEAR = "duplicate", "near-duplicate"


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """That pictures whose pixels an earlier picture of the source has are left out, in whatever split.

    ``near``: bits of a perceptual hash, 0 to 3, in which a picture may differ and still be left out; None: same pixels
    only. See likeness.py.
    """

    near: int | None = None

    def __post_init__(self):
        Seen(self.near)  # raises ValueError for a distance there is not


def build(
    source: str | os.PathLike,
    out: str | os.PathLike,
    name: str | None = None,
    version: str = "1.0.0",
    holdout: float = 0.0,
    choice: Choice = Choice(),
    duplicates: Duplicates | None = None,
    shard_mb: int = 256,
    group: int = 1,
    description: str = "",
    run: Runner = Processes(1),
) -> dict:
    """Convert ``source``, whatever sources.source_of knows, to a data set in ``out/version``.

    Args:
      source: folder of pictures with .txt or metadata.jsonl; .parquet, .tar or .tfrecord file or folder of them; TFDS
        directory, or name that is prepared here.
      out: directory of the data set, local or mounted; its last part is the name unless ``name`` is given.
      name: name of the data set: lower-case letters, digits and underscores.
      version: three numbers; an existing version is never overwritten.
      holdout: share of "train" (0 to 1) that becomes split "val", chosen by a hash of each key.
      choice: which pictures and captions are taken.
      duplicates: which repetitions are left out; None: all are kept.
      shard_mb: a new file is begun after so many megabytes.
      group: records compressed together; see form.write_file.
      description: a sentence that TFDS shows.
      run: who does the work; the result does not depend on it.
    Returns:
      The manifest: records, files and digests a split, and what was skipped, by reason.
    Raises:
      FileNotFoundError, ValueError: no such source, nothing usable in it, or a bad name.
      FileExistsError: that version is already there.
      BlockingIOError: another build of it is running.
    """
    if "://" in os.fspath(out):
        raise ValueError(f"out={os.fspath(out)}: a build writes to a file system; mount that place, or copy the result")
    out = Path(out).expanduser()
    name = name or re.sub(r"\W+", "_", out.resolve().name).strip("_").lower()
    if not name.isidentifier() or name != name.lower():
        raise ValueError(f"name={name!r}: a data set's name is lower-case letters, digits and underscores")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ValueError(f"version={version!r}: three numbers with dots, such as 1.0.0")
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout={holdout}: a share from 0 up to, not including, 1")
    origin, final, part = source_of(source), out / version, out / f".{version}.part"
    if final.exists():
        shutil.rmtree(part, ignore_errors=True)  # of a build that was killed after its last step
        raise FileExistsError(f"{final} is there already; give another version or remove it")
    units = list(enumerate(origin.units()))
    settings = {"name": name, "holdout": holdout, "choice": choice, "duplicates": duplicates, "shard_mb": shard_mb,
                "group": group, "description": description, "versions": (__version__, PIL.__version__)}  # fmt: skip
    with _part(part, f"{settings} {_fingerprint(origin, units)}"):
        places = part / "units"
        work = Work(origin, os.fspath(places), holdout, choice, duplicates is not None)
        run(partial(convert, work), [task for task in units if not is_done(places, task[0])])
        skipped = Counter()
        with (part / SKIPPED).open("w", encoding="utf-8") as file:
            for line in _skipped(places, len(units), duplicates):
                skipped[line["reason"]] += 1
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        found = _look(places, len(units))
        reasons = dict(skipped.most_common())
        if not found.records or (holdout and not found.splits["train"]):
            with (part / SKIPPED).open(encoding="utf-8") as file:
                first = file.readline().strip()
            _withdraw(part)
            if not found.records:
                raise ValueError(f"nothing usable in {source}: {reasons}, such as {first}")
            raise ValueError(
                f"holdout={holdout} left no picture of {source} to train on; give a smaller share or more pictures"
            )
        whole = part / "whole"
        whole.mkdir(exist_ok=True)
        assembly = shards.Assembly(os.fspath(places), os.fspath(whole), tuple(sorted(found.fields.items())), group)
        files = shards.plan(places, len(units), name, shard_mb << 20)
        run(partial(shards.write, assembly), [shard for split in files.values() for shard in split])
        splits = {
            split: form.Shards(
                shards.digests(assembly, of), tuple(shard.records for shard in of), sum(shard.bytes for shard in of)
            )
            for split, of in files.items()
        }
        text = description or f"Built from {origin.name}."
        form.write_metadata(whole, name, version, splits, found.fields, (*found.shape, 3), text)
        shutil.copyfile(part / SKIPPED, whole / SKIPPED)
        facts = {"name": name, "version": version, "captions": found.captions, "skipped": reasons}
        manifest = form.write_manifest(whole, splits, **facts)
        whole.rename(final)
        shutil.rmtree(part)
    return manifest


@contextmanager
def _part(part: Path, settings: str) -> Iterator[None]:
    """The folder of a build under way, for this process alone; emptied where it belongs to another build."""
    part.mkdir(parents=True, exist_ok=True)
    with (part / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(
                f"another process is building {part.parent}; wait for it, or give another --out"
            ) from error
        belongs = part / "settings"
        if not (belongs.is_file() and belongs.read_text() == settings):
            for entry in part.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                elif entry.name != "lock":
                    entry.unlink()
            (part / "units").mkdir()
            belongs.write_text(settings)
        yield


def _withdraw(part: Path) -> None:
    """Remove what was begun, and its folder if nothing else is in it."""
    shutil.rmtree(part)
    if not any(part.parent.iterdir()):
        part.parent.rmdir()


def _fingerprint(origin: Source, units: list[tuple[int, Unit]]) -> str:
    """A digest of the source's units, and of size and time of each file of records."""
    digest = hashlib.sha256(f"{type(origin).__name__} {origin.path}".encode())
    last = None
    for _, unit in units:
        digest.update(repr(unit).encode("utf-8", "replace"))
        if not unit.names and unit.path != last:
            last, stat = unit.path, (origin.path / unit.path).stat()
            digest.update(f"{stat.length} {stat.mtime}".encode())
    return digest.hexdigest()


@dataclasses.dataclass
class _Found:
    """What is known of the kept examples."""

    records: int = 0
    captions: int = 0
    splits: Counter = dataclasses.field(default_factory=Counter)
    fields: dict[str, bool] = dataclasses.field(default_factory=dict)
    shape: tuple[int | None, int | None] = (None, None)


def _look(places: Path, count: int) -> _Found:
    found, sizes = _Found(), set()
    for number in range(count):
        done, facts = read_done(places, number)
        facts = facts[shards.kept(places, number, len(facts))]
        found.records += len(facts)
        found.captions += int(facts["captions"].sum())
        if len(sizes) < 2:
            sizes |= set(map(tuple, np.unique(facts["size"], axis=0)[:2].tolist()))
        for split, records in zip(*np.unique(facts["split"], return_counts=True)):
            found.splits[done.splits[split]] += int(records)
        for kind in np.unique(facts["kind"]):
            for name, many in done.kinds[kind].items():
                found.fields[name] = found.fields.get(name, False) or many
    found.fields = dict(sorted(found.fields.items()))
    found.shape = sizes.pop() if len(sizes) == 1 else (None, None)
    return found


def _skipped(places: Path, count: int, duplicates: Duplicates | None) -> Iterator[dict[str, str]]:
    """Everything that was left out, in the order of the source; then the repetitions, with their kept twins."""
    for number in range(count):
        yield from read_done(places, number)[0].skipped
    if duplicates is None:
        return
    seen, starts = Seen(duplicates.near), [0]
    names = lru_cache(16)(lambda number: read_done(places, number)[0].where)
    for number in range(count):
        facts = read_done(places, number)[1]
        kept = np.ones(len(facts), bool)
        for row, one in enumerate(facts["likeness"]):
            if twin := seen.twin(one):
                kept[row] = False
                unit = int(np.searchsorted(starts, twin.number, side="right")) - 1
                other = names(unit)[twin.number - starts[unit]]
                reason = EXACT if twin.exact else NEAR
                yield {"item": names(number)[row], "reason": reason, "detail": f"of {other}", "twin": other}
        np.save(unit_file(places, number, "kept.npy"), kept)
        starts.append(starts[-1] + len(facts))
