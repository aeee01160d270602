"""What every source hands over: one captioned picture as found, the piece of work that it was found in, and the names
under which captions, pictures and scores are looked for.

Nothing that a source says is trusted: names, sizes and texts are checked before they are used, and an item that can't
be used is a BadPicture with a countable reason, not an exception that ends the build.
"""

import json
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from etils import epath

from t2i_jax.data.pictures import BadPicture

MAX_BYTES = 64 << 20
"""No file of a picture may be larger."""
MAX_TEXT = 1 << 20
"""No file of captions, and no line of metadata, may be larger."""
CAPTION_NAMES = ("captions", "caption", "text", "TEXT", "captions/text", "image/caption", "image/text", "txt")
PICTURE_NAMES = ("image", "image/encoded", "image_raw", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "bytes")
# Sources without a schema could bring any number of names; these are what one wants to know of a picture
KEPT_TEXTS = ("url", "license", "source", "author", "title", "style")
# whole words, with a year or a letter (val2017, testA) and a kind (val_pair): devices, valley and deviantart are none
_SPLIT = re.compile(
    r"(?:^|[-_])((?:train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?|eval(?:uation)?|dev)\d*[A-Z]?(?:_[a-z]+)*)$"
)
# Hugging Face put a fingerprint behind the number of a shard
_SHARD = re.compile(
    r"(?:\.(?:parquet|tfrecords?|tfrec|tar))?(?:-\d+-of-\d+(?:-[0-9a-f]{8,})?)?(?:\.(?:parquet|tfrecords?|tfrec|tar))?$"
)


@dataclass(frozen=True)
class Raw:
    """One captioned picture as found: bytes of any picture format, captions as written, further text columns, and
    numbers to choose by."""

    key: str
    split: str
    image: bytes
    captions: list[str]
    more: dict[str, str | list[str]] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Unit:
    """A piece of a source that one worker converts: a file, rows ``first`` to ``last`` of one, or ``names`` in a
    folder."""

    path: str
    first: int = 0
    last: int = 0
    names: tuple[str, ...] = ()


Found = tuple[str, Raw | BadPicture]
"""Where an item was found, for people, and the item, or why it can't be used."""


class Source(ABC):
    """Captioned pictures at ``path``. The units, in their order, depend on the content alone."""

    path: epath.Path

    @property
    def name(self) -> str:
        """What it is called in a description."""
        return self.path.name

    @abstractmethod
    def units(self) -> Iterator[Unit]:
        """The pieces of work."""

    @abstractmethod
    def read(self, unit: Unit) -> Iterator[Found]:
        """The items of a unit, in order."""


def split_of(name: str) -> str:
    """The split that a file's name ends in ("things-val-00000-of-00002.parquet": val), else its folder's
    ("val/0000.parquet"), else train."""
    for part in name.split("/")[:-3:-1]:
        if found := _SPLIT.search(_SHARD.sub("", part)):
            return found.group(1)
    return "train"


def as_text(data: bytes) -> str:
    """Raises BadPicture where the bytes are not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadPicture("caption is not UTF-8", str(error)) from error


def as_json(data: bytes | str) -> dict:
    """An object of JSON. Raises BadPicture."""
    try:
        row = json.loads(data)
    except (ValueError, RecursionError) as error:  # ValueError: also broken UTF-8 and numbers of thousands of digits
        raise BadPicture("broken metadata", str(error)[:200]) from error
    if not isinstance(row, dict):
        raise BadPicture("broken metadata", "not an object of JSON")
    return row


def caption_name(row: Mapping) -> str:
    """The name under which a row has its captions; "" where it has none."""
    return next((name for name in CAPTION_NAMES if row.get(name)), "")


def captions_in(row: Mapping) -> list[str]:
    """The captions of a row of named values. Raises BadPicture where there are none."""
    value = row.get(caption_name(row))
    if isinstance(value, str):
        return [value]
    if isinstance(value, Sequence) and value and all(isinstance(one, str) for one in value):
        return list(value)
    raise BadPicture("missing caption", f"it has {', '.join(map(str, list(row)[:20]))}")


def scores_in(row: Mapping) -> dict[str, float]:
    """The finite numbers of a row."""
    found = {}
    for name, value in row.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
            if math.isfinite(value):
                found[str(name)] = float(value)
    return found


def texts_in(row: Mapping, names: Sequence[str] = KEPT_TEXTS) -> dict[str, str]:
    """The short texts of a row that are worth keeping; names in lower case."""
    lower = {str(name).lower(): value for name, value in row.items()}
    return {n: lower[n] for n in names if isinstance(lower.get(n), str) and 0 < len(lower[n]) <= 4096}


def files_below(path: epath.Path) -> Iterator[str]:
    """Names of all files below a folder, relative to it, sorted part by part. Hidden ones are left out, and so are
    links to a folder that they stand in, which would have no end."""
    return _files_below(path, ())


def _files_below(path: epath.Path, above: tuple[Path, ...]) -> Iterator[str]:
    """``above``: the real folders through which the walk came here."""
    folders, files = [], []
    for entry in path.iterdir():
        if entry.name.startswith("."):
            continue
        (folders if entry.is_dir() else files).append(entry.name)
    folders, above = set(folders), (*above, Path(os.path.realpath(path)))
    for name in sorted([*folders, *files]):
        if name in folders:
            if not _leads_back(path / name, above):
                yield from (f"{name}/{inner}" for inner in _files_below(path / name, above))
        elif (path / name).is_file():  # no pipe, no device
            yield name


def _leads_back(folder: epath.Path, above: tuple[Path, ...]) -> bool:
    if not os.path.islink(folder):  # nor is anything in an object store
        return False
    real = Path(os.path.realpath(folder))
    return any(one.is_relative_to(real) for one in above)


def read_file(path: epath.Path, most: int) -> bytes:
    """All bytes of a file. Raises BadPicture where there are more than ``most`` or it can't be read."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise BadPicture("unreadable file", str(error)) from error
    if len(data) > most:
        raise BadPicture("too many bytes", f"{path.name} has more than {most}")
    return data


def is_unsafe(name: str) -> bool:
    """Whether a name leads, or could lead, out of its folder."""
    parts = re.split(r"[/\\]", name)
    return not name or name[0] in "/\\" or ".." in parts or "\0" in name or bool(re.match(r"[A-Za-z]:", name))
