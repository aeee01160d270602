"""A data set that could be trained on as it is, as a source, so that choosing, leaving out repetitions and a manifest
can be had for it: a TFDS directory of ArrayRecord files, or the name of one (``emoji64``, or what TFDS prepared here).

Splits, keys and captions are its own. Columns of text come along, and columns of numbers are there to choose by.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from etils import epath

from t2i_jax.data.dataset import check, load_dataset
from t2i_jax.data.pictures import BadPicture
from t2i_jax.data.sources import raw

_UNIT, _ROWS = 500, 16


def is_array_record(directory: Path) -> bool:
    """Whether the dataset_info.json of a directory is TFDS's, of ArrayRecord files."""
    try:
        facts = json.loads((directory / "dataset_info.json").read_text())
    except ValueError:
        return False
    return isinstance(facts, dict) and facts.get("fileFormat") == "array_record"


@dataclass(frozen=True)
class TFDS(raw.Source):
    """``path``: the directory that holds dataset_info.json."""

    path: epath.Path

    @property
    def name(self) -> str:
        return self._info().full_name

    def units(self) -> Iterator[raw.Unit]:
        """500 records of a file each, by their numbers in the split. Raises ValueError where it has no captioned
        pictures."""
        for file, (split, start, end) in self._files().items():
            load_dataset(self.path, split)
            for first in range(start, end, _UNIT):
                yield raw.Unit(file, first, min(first + _UNIT, end))

    def read(self, unit: raw.Unit) -> Iterator[raw.Found]:
        split, _, _ = self._files()[unit.path]
        dataset, texts = load_dataset(self.path, split), self._texts()
        for first in range(unit.first, unit.last, _ROWS):
            for record in dataset.records(range(first, min(first + _ROWS, unit.last))):
                where = f"{split} record {record['index']}"
                try:
                    yield where, _picture(split, record, texts)
                except BadPicture as error:
                    yield where, error

    def _info(self):
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(self.path).info

    def _files(self) -> dict[str, tuple[str, int, int]]:
        """Of each file that has records: its split, and where in the split they begin and end."""
        found = {}
        for split, facts in self._info().splits.items():
            ends = [*accumulate(facts.shard_lengths)]
            for file, first, end in zip(sorted(facts.filenames), [0, *ends], ends):
                if end > first:
                    found[file] = split, first, end
        return found

    def _texts(self) -> set[str]:
        """Columns of a text or a list of texts."""
        import tensorflow_datasets as tfds

        kinds = tfds.features
        columns = self._info().features.items()
        inner = ((name, kind.feature if isinstance(kind, kinds.Sequence) else kind) for name, kind in columns)
        return {name for name, kind in inner if isinstance(kind, kinds.Text)}


def _picture(split: str, record: dict, texts: set[str]) -> raw.Raw:
    check(record)
    if len(record["image"]) > raw.MAX_BYTES:
        raise BadPicture("too many bytes", f"{len(record['image'])}")
    row = {name: value for name, value in record.items() if name not in ("image", "captions", "key", "index")}
    more = {name: value for name, value in row.items() if name in texts}
    return raw.Raw(record["key"], split, record["image"], record["captions"], more, raw.scores_in(row))
