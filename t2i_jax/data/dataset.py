"""A data set of captioned pictures with random access: any TFDS directory in ArrayRecord files.

    load_dataset("emoji64")                     the set inside this package
    load_dataset("DATA/mine", "val")            a directory, such as `t2i data build` writes
    load_dataset("coco_captions", "train[:1%]") a TFDS data set that was prepared on this machine

Nothing is ever downloaded and TensorFlow is not imported.
"""

import difflib
import hashlib
import json
import operator
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from t2i_jax.data.form import MANIFEST, parse
from t2i_jax.data.pictures import SUFFIXES, BadPicture
from t2i_jax.data.records import Damaged, Piece, Records

EMBEDDED = {"emoji64": Path(__file__).parent / "emoji64"}
_CAPTIONS = ("captions", "captions/text", "caption", "text")
_KEYS = ("key", "image/filename", "image/id")
_PREPARE = (
    'If TFDS has it, this downloads and prepares it: `python -c "import tensorflow_datasets as tfds; '
    "tfds.builder('{}', file_format='array_record').download_and_prepare()\"`"
)
_NAME = re.compile(r"^\w+(?:/[\w.-]+)?(?::[\d.]+)?$")
_WHOLE = 1 << 30
DAMAGE = ("damage",)
"""Where a record says what is wrong with it; no column of a data set has such a name."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set. ``len(dataset)`` examples, read by index."""

    name: str
    split: str
    directory: Path
    source: Records = field(repr=False)
    lists: frozenset[str] = field(repr=False)

    def __len__(self) -> int:
        return len(self.source)

    def records(self, indices: Iterable) -> list[dict]:
        """Examples as dicts: ``image`` bytes as stored, ``captions`` list of str, ``key`` str, ``index`` int, and
        whatever text the data set has beside them, under other names. A damaged record has no captions, no image, and
        DAMAGE, which says what is wrong. Raises IndexError for an index outside 0 ... len - 1."""
        indices = [operator.index(i) for i in indices]
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(f"{self.name} {self.split} has examples 0 to {len(self) - 1}, not {index}")
        found = self.source.read(indices)
        return [self._example(index, record) for index, record in zip(indices, found)]

    @cached_property
    def captions(self) -> list[list[str]]:
        """The captions of every example, read once."""
        rows = (self.records(range(i, min(i + 1024, len(self)))) for i in range(0, len(self), 1024))
        return [record["captions"] for chunk in rows for record in chunk]

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the split's content: from the manifest that a build wrote, else from the files. Of more than
        1 GiB of files without a manifest, each file's size, first and last MiB count."""
        bases = _bases(self.split)
        manifest = self.directory / MANIFEST
        splits = json.loads(manifest.read_text())["splits"] if manifest.is_file() else {}
        digest = hashlib.sha256(f"{self.split}\n".encode())
        if set(bases) <= set(splits):
            digest.update("".join(splits[base]["digest"] for base in bases).encode())
            return digest.hexdigest()
        files = sorted(p for p in self.directory.iterdir() if any(f"-{base}." in p.name for base in bases))
        whole = sum(p.stat().st_size for p in files) <= _WHOLE
        for path in files:
            with path.open("rb") as file:
                if whole:
                    digest.update(file.read())
                    continue
                size = path.stat().st_size
                digest.update(f"{path.name} {size}\n".encode() + file.read(1 << 20))
                file.seek(max(0, size - (1 << 20)))
                digest.update(file.read())
        return digest.hexdigest()

    def _example(self, index: int, record: bytes | Damaged) -> dict:
        try:
            damage = record.detail if isinstance(record, Damaged) else ""
            raw = {} if damage else parse(record)
        except ValueError as error:
            raw, damage = {}, str(error)
        if damage:
            return {"image": b"", "captions": [], "key": f"{self.split}/{index}", "index": index, DAMAGE: damage}
        image = raw.pop("image", None)
        out = {name: _text(values) for name, values in raw.items()}
        captions = next((out.pop(name) for name in _CAPTIONS if out.get(name)), [])
        key = next((str(out[name][0]) for name in _KEYS if out.get(name)), None)
        for name in [*out]:
            if name not in self.lists:
                values = out.pop(name)
                if values:
                    out[name] = values[0]
        out |= {"image": image[0] if image else b"", "captions": captions, "index": index}
        out["key"] = key or f"{self.split}/{index}"
        return out


def _text(values: list) -> list:
    return [value.decode("utf-8", "replace") for value in values] if values and isinstance(values[0], bytes) else values


def check(record: dict) -> None:
    """Raises BadPicture where a record is damaged or has no caption, whatever its picture is."""
    if DAMAGE in record:
        raise BadPicture("damaged record", record[DAMAGE])
    if not record["captions"]:
        raise BadPicture("empty caption")


def load_dataset(name: str | os.PathLike, split: str = "train") -> Dataset:
    """The ``split`` of the data set that ``name`` means: "emoji64", a directory of TFDS form, or a TFDS name that is
    prepared in $TFDS_DATA_DIR (else ~/tensorflow_datasets). TFDS's slices work: ``split="train[:10%]"``.

    Raises FileNotFoundError or ValueError that says what is wrong and which command puts it right.
    """
    import tensorflow_datasets as tfds

    directory = find(os.fspath(name))
    builder = tfds.builder_from_directory(directory)
    if not set(_bases(split)) <= set(builder.info.splits):
        raise ValueError(f"{name} has no split {split!r}; it has {', '.join(builder.info.splits)}")
    if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        advice = _PREPARE.format(builder.info.full_name.rpartition("/")[0])
        if builder.info.file_format is tfds.core.FileFormat.TFRECORD:
            advice = f"Convert it: `t2i data build {directory} --out DIR`, and give DIR instead"
        kind = builder.info.file_format.value
        raise ValueError(f"{directory} is in {kind} files, which are not read by index. {advice}")
    features = builder.info.features
    captions = [n for n in ("captions", "caption", "text") if n in features]
    if "image" not in features or not captions:
        raise ValueError(
            f"{name} has the features {', '.join(features)}; a captioned picture has image and captions (or caption)"
        )
    records = Records([Piece(str(f.filename), f.skip, f.take) for f in builder.info.splits[split].file_instructions])
    if not len(records):
        raise ValueError(f"split {split!r} of {name} is empty")
    lists = frozenset(n for n, f in features.items() if isinstance(f, tfds.features.Sequence))
    return Dataset(builder.info.name, split, directory, records, lists)


def _bases(split: str) -> list[str]:
    """The names in a TFDS split expression: "train[:10%]+val" has train and val."""
    return [part.split("[")[0].strip() for part in split.split("+")]


def find(name: str) -> Path:
    """The directory, the one that holds dataset_info.json, of a data set that is given as to ``load_dataset``."""
    if name in EMBEDDED:
        return newest(EMBEDDED[name])
    path = Path(name).expanduser()
    if path.is_dir():
        if found := newest(path):
            return found
        _refuse_folder(path)
    if path.exists():
        raise ValueError(f"{path} is a file; a data set is a directory. Make one: `t2i data build {path} --out DIR`")
    home = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    if _NAME.match(name):
        base, _, version = name.partition(":")
        if (home / base).is_dir():
            if found := newest(home / base, version):
                return found
            below = (one for one in sorted((home / base).iterdir()) if one.is_dir())
            configs = {one.name: found for one in below if (found := newest(one, version)) not in (None, one)}
            if len(configs) > 1:
                choice = ", ".join(f"{base}/{one}" for one in configs)
                raise ValueError(f"{name} is prepared in several configurations; name one: {choice}")
            if configs:
                return next(iter(configs.values()))
    if not _NAME.match(name) or name.startswith("."):
        raise FileNotFoundError(f"no data set at {path}: there is no such directory")
    close = difflib.get_close_matches(name, EMBEDDED)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise FileNotFoundError(
        f"no data set {name!r}: it is neither {', '.join(EMBEDDED)}, nor a directory, nor prepared in {home}.{hint} "
        + _PREPARE.format(name)
    )


def newest(path: Path, version: str = "") -> Path | None:
    """``path`` itself or its newest version, whichever holds a data set."""
    if (path / "dataset_info.json").is_file():
        return path
    numbered = [
        p for p in path.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", p.name) and (not version or p.name == version)
    ]
    numbered = [p for p in numbered if (p / "dataset_info.json").is_file()]
    return max(numbered, key=lambda p: tuple(map(int, p.name.split("."))), default=None)


def _refuse_folder(path: Path) -> None:
    if next(path.iterdir(), None) is None:
        raise ValueError(f"the data set directory {path} is empty")
    usable: Sequence[str] = [*SUFFIXES, ".parquet"]
    if any(p.suffix.lower() in usable for p in path.rglob("*")):
        raise ValueError(
            f"{path} holds files, not yet a data set. Run `t2i data build {path} --out DIR` and give DIR instead."
        )
    raise ValueError(f"{path} holds neither a data set (dataset_info.json) nor pictures")
