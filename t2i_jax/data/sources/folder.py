"""A folder of pictures with a ``.txt`` of the same name beside each, one caption a line; subfolders too."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

from etils import epath

from t2i_jax.data.pictures import SUFFIXES, BadPicture
from t2i_jax.data.sources.raw import MAX_BYTES, MAX_TEXT, Found, Raw, Source, Unit, as_text, files_below, read_file

_UNIT = 500


@dataclass(frozen=True)
class Folder(Source):
    """Each picture belongs to split "train"; its key is its name without the ending. Links are followed: the folder
    is the user's own."""

    path: epath.Path

    def units(self) -> Iterator[Unit]:
        pictures = (name for name in files_below(self.path) if PurePosixPath(name).suffix.lower() in SUFFIXES)
        while names := tuple(islice(pictures, _UNIT)):
            yield Unit(".", names=names)

    def read(self, unit: Unit) -> Iterator[Found]:
        for name in unit.names:
            try:
                yield name, self._picture(name)
            except BadPicture as error:
                yield name, error

    def _picture(self, name: str) -> Raw:
        item = self.path / name
        text = item.with_suffix(".txt")
        if not text.is_file():
            raise BadPicture("missing caption", f"no {text.name} beside it")
        captions = re.split(r"\r\n|\r|\n", as_text(read_file(text, MAX_TEXT)))
        key = PurePosixPath(name).with_suffix("").as_posix()
        return Raw(key, "train", read_file(item, MAX_BYTES), captions)
