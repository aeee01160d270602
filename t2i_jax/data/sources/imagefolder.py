"""A folder with ``metadata.jsonl``, as Hugging Face writes an image folder: a line for each picture, with its
``file_name``, relative to the file of metadata, and ``text`` (or ``caption``, ``captions``).

The split is the name of the folder that holds the metadata, where that is one (train, val, validation, test).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from etils import epath

from t2i_jax.data.pictures import BadPicture
from t2i_jax.data.sources import raw

METADATA = "metadata.jsonl"
_UNIT = 500


@dataclass(frozen=True)
class ImageFolder(raw.Source):
    """A name that leads out of the folder is refused, and no line may be longer than raw.MAX_TEXT bytes."""

    path: epath.Path

    def units(self) -> Iterator[raw.Unit]:
        """500 lines each, by their bytes."""
        for name in raw.files_below(self.path):
            if PurePosixPath(name).name != METADATA:
                continue
            with (self.path / name).open("rb") as file:
                first, lines = 0, 0
                while line := file.readline(raw.MAX_TEXT):
                    lines += line.endswith(b"\n")
                    if lines == _UNIT:
                        yield raw.Unit(name, first, file.tell())
                        first, lines = file.tell(), 0
                if file.tell() > first:
                    yield raw.Unit(name, first, file.tell())

    def read(self, unit: raw.Unit) -> Iterator[raw.Found]:
        folder = PurePosixPath(unit.path).parent
        with (self.path / unit.path).open("rb") as file:
            file.seek(unit.first)
            while file.tell() < unit.last:
                where, line = f"{unit.path} byte {file.tell()}", file.readline(raw.MAX_TEXT + 1)
                whole = len(line) <= raw.MAX_TEXT
                while line and not line.endswith(b"\n") and file.tell() < unit.last:
                    line, whole = file.readline(raw.MAX_TEXT), False
                if not line.strip():
                    continue
                try:
                    if not whole:
                        raise BadPicture("broken metadata", f"a line of more than {raw.MAX_TEXT} bytes")
                    yield where, self._picture(folder, raw.as_json(line))
                except BadPicture as error:
                    yield where, error

    def _picture(self, folder: PurePosixPath, row: dict) -> raw.Raw:
        name = row.get("file_name")
        if not isinstance(name, str):
            raise BadPicture("broken metadata", "no file_name")
        if raw.is_unsafe(name):
            raise BadPicture("unsafe name", repr(name[:200]))
        captions = raw.captions_in(row)
        path = self.path / folder / name
        try:
            there = path.is_file()
        except (OSError, ValueError) as error:  # a name too long, or of characters that no file has
            raise BadPicture("missing picture", str(error)[:200]) from error
        if not there:
            raise BadPicture("missing picture", f"no {name[:200]!r}")
        split = raw.split_of(folder.name) if folder.name else "train"
        key = (folder / name).with_suffix("").as_posix()
        image = raw.read_file(path, raw.MAX_BYTES)
        return raw.Raw(key, split, image, captions, raw.texts_in(row), raw.scores_in(row))
