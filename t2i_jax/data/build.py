"""Any source of captioned pictures into the one form that training reads (see form.py).

    t2i data build PICTURES --out DATA/mine        then   --data.dataset DATA/mine

A picture that can't be used is skipped, counted by reason in the manifest and listed in ``skipped.jsonl``. The same
source gives the same bytes. The directory appears under its name only when it is whole.
"""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from t2i_jax.data import form
from t2i_jax.data.pictures import MAX_PIXELS, BadPicture, canonical
from t2i_jax.data.sources import Source, source_of
from t2i_jax.text.normalize import normalize

SKIPPED = "skipped.jsonl"


def clean_captions(captions: list[str]) -> list[str]:
    """Normalised, without empty ones and repetitions. Raises BadPicture where none is left."""
    kept = list(dict.fromkeys(filter(None, map(normalize, captions))))
    if not kept:
        raise BadPicture("empty caption")
    return kept


def build(
    source: str | Path,
    out: str | Path,
    name: str | None = None,
    version: str = "1.0.0",
    holdout: float = 0.0,
    max_pixels: int = MAX_PIXELS,
    shard_mb: int = 256,
    group: int = 1,
    description: str = "",
) -> dict:
    """Convert ``source`` (a folder of pictures with .txt captions, or Parquet) to a data set in ``out/version``.

    Args:
      source: folder of pictures, .parquet file, or folder of .parquet files.
      out: directory of the data set; its last part is the name unless ``name`` is given.
      name: name of the data set: lower-case letters, digits and underscores.
      version: three numbers; an existing version is never overwritten.
      holdout: share of "train" (0 to 1) that becomes split "val", chosen by a hash of each key.
      max_pixels: pictures with more pixels than this, by their header, are skipped.
      shard_mb: a new file is begun after so many megabytes.
      group: records compressed together; see form.write_split.
      description: a sentence that TFDS shows.
    Returns:
      The manifest: records, files and digests a split, and what was skipped, by reason.
    Raises:
      FileNotFoundError, ValueError: no such source, nothing usable in it, or a bad name.
      FileExistsError: that version is already there.
    """
    source, out = Path(source).expanduser(), Path(out).expanduser()
    name = name or _name_of(out)
    if not name.isidentifier() or name != name.lower():
        raise ValueError(f"name={name!r}: a data set's name is lower-case letters, digits and underscores")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ValueError(f"version={version!r}: three numbers with dots, such as 1.0.0")
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout={holdout}: a share from 0 up to, not including, 1")
    origin, final = source_of(source), out / version
    if final.exists():
        raise FileExistsError(f"{final} is there already; give another version or remove it")
    part = out / f".{version}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    found = _Found()
    writers: dict[str, form.SplitWriter] = {}
    for example in _examples(origin, max_pixels, found):
        split = example.pop("split")
        if split == "train" and _share(example["key"]) < holdout:
            split = "val"
        if split not in writers:
            writers[split] = form.SplitWriter(part, name, split, shard_mb << 20, group)
        writers[split].write(example)
    splits = {split: writers[split].close() for split in sorted(writers)}
    if not splits:
        _withdraw(part)
        raise ValueError(f"nothing usable in {source}: {found.reasons()}, such as {found.skipped[:1]}")
    if holdout and "train" not in splits:
        _withdraw(part)
        raise ValueError(
            f"holdout={holdout} left no picture of {source} to train on; give a smaller share or more pictures"
        )
    shape = found.sizes.pop() if len(found.sizes) == 1 else (None, None)
    form.write_metadata(
        part, name, version, splits, found.fields, (*shape, 3), description or f"Built from {source.name}."
    )
    (part / SKIPPED).write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in found.skipped))
    facts = {"name": name, "version": version, "captions": found.captions, "skipped": found.reasons()}
    manifest = form.write_manifest(part, splits, **facts)
    part.rename(final)
    return manifest


def _withdraw(part: Path) -> None:
    """Remove what was begun, and its folder if nothing else is in it."""
    shutil.rmtree(part)
    if not any(part.parent.iterdir()):
        part.parent.rmdir()


@dataclass
class _Found:
    """What is known of the examples after a pass over them."""

    captions: int = 0
    sizes: set[tuple[int, int]] = field(default_factory=set)
    fields: dict[str, bool] = field(default_factory=dict)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def reasons(self) -> dict[str, int]:
        return dict(Counter(line["reason"] for line in self.skipped).most_common())


def _examples(origin: Source, max_pixels: int, found: _Found) -> Iterator[dict]:
    """The usable examples of a source, in its order; ``found`` is filled along the way."""
    for item in origin.items():
        try:
            raw = origin.read(item)
            captions = clean_captions(raw.captions)
            image, size = canonical(raw.image, max_pixels)
        except BadPicture as error:
            found.skipped.append({"item": origin.where(item), "reason": error.reason, "detail": str(error)})
            continue
        example = {**raw.more, "image": image, "captions": captions, "key": raw.key, "split": raw.split}
        found.captions += len(captions)
        if len(found.sizes) < 2:
            found.sizes.add(size)
        for name in example.keys() - {"image", "split"}:
            found.fields[name] = found.fields.get(name, False) or isinstance(example[name], list)
        yield example


def _share(key: str) -> float:
    """A number in [0, 1) that belongs to the key."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64


def _name_of(out: Path) -> str:
    return re.sub(r"\W+", "_", out.resolve().name).strip("_").lower()
