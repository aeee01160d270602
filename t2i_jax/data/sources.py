"""Where captioned pictures come from before they are a data set: a folder of files, or Parquet tables.

A source lists its items first and reads each when asked, so that a list of millions costs names only. An item that
can't be used raises BadPicture with a countable reason, and the build goes on.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from t2i_jax.data.pictures import SUFFIXES, BadPicture

CAPTION_NAMES = ("captions", "caption", "text", "TEXT")
_SPLIT = re.compile(r"(?:^|-)((?:train|val|test|eval|dev)\w*)$")


@dataclass(frozen=True)
class Raw:
    """One captioned picture as found: bytes of any picture format, captions as written, further text columns."""

    key: str
    split: str
    image: bytes
    captions: list[str]
    more: dict[str, str | list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Folder:
    """Pictures with a ``.txt`` of the same name beside each, one caption a line; subfolders too.

    Each file belongs to split "train".
    """

    path: Path

    def items(self) -> list[Path]:
        """All picture files, sorted."""
        return sorted(p for p in self.path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())

    def where(self, item: Path) -> str:
        return item.relative_to(self.path).as_posix()

    def read(self, item: Path) -> Raw:
        text = item.with_suffix(".txt")
        if not text.is_file():
            raise BadPicture("missing caption", f"no {text.name} beside it")
        try:
            captions = text.read_text("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise BadPicture("caption is not UTF-8", str(error)) from error
        try:
            image = item.read_bytes()
        except OSError as error:
            raise BadPicture("unreadable file", str(error)) from error
        key = item.relative_to(self.path).with_suffix("").as_posix()
        return Raw(key, "train", image, captions)


@dataclass(frozen=True)
class Parquet:
    """Parquet tables with picture bytes in ``image`` (or ``image.bytes``, as Hugging Face writes it) and a column
    ``captions``, ``caption`` or ``text``. The split is what a file's name ends in (``things-val.parquet``), else
    "train"; further text columns come along.
    """

    path: Path

    def items(self) -> Iterator[tuple[Path, int, dict]]:
        """All rows of all files, sorted by file name."""
        import pyarrow.parquet

        files = sorted(self.path.rglob("*.parquet")) if self.path.is_dir() else [self.path]
        for file in files:
            number = 0
            for group in pyarrow.parquet.ParquetFile(file).iter_batches(256):
                for row in group.to_pylist():
                    yield file, number, row
                    number += 1

    def where(self, item: tuple[Path, int, dict]) -> str:
        return f"{item[0].name} row {item[1]}"

    def read(self, item: tuple[Path, int, dict]) -> Raw:
        file, number, row = item
        stem = re.sub(r"-\d+-of-\d+$", "", file.stem)
        split = found.group(1) if (found := _SPLIT.search(stem)) else "train"
        image = row.pop("image", None)
        image = image.get("bytes") if isinstance(image, dict) else image
        if not isinstance(image, bytes):
            raise BadPicture("missing picture", f"no bytes in column image; columns: {', '.join(row)}")
        name = next((name for name in CAPTION_NAMES if row.get(name)), None)
        if name is None:
            raise BadPicture("missing caption", f"columns: {', '.join(row)}")
        captions = row.pop(name)
        more = {k: v for k, v in row.items() if _is_text(v) and k != "key"}
        key = str(row.get("key") or f"{file.stem}-{number:08d}")
        return Raw(key, split, image, [captions] if isinstance(captions, str) else list(captions), more)


Source = Folder | Parquet


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))


def source_of(path: Path) -> Source:
    """The source that ``path`` is. Raises FileNotFoundError or ValueError, naming it, where it is none."""
    if not path.exists():
        raise FileNotFoundError(f"no such folder or file: {path}")
    if path.is_file() and path.suffix == ".parquet":
        return Parquet(path)
    if not path.is_dir():
        raise ValueError(f"{path} is neither a folder nor a .parquet file")
    if next(path.rglob("*.parquet"), None):
        return Parquet(path)
    if any(p.suffix.lower() in SUFFIXES for p in path.rglob("*")):
        return Folder(path)
    if next(path.iterdir(), None) is None:
        raise ValueError(f"the folder {path} is empty; put pictures there, each with a .txt caption beside it")
    raise ValueError(f"no pictures ({', '.join(sorted(SUFFIXES))}) and no .parquet files in {path}")
