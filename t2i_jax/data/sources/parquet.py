"""Parquet tables with the pictures' bytes inside: in ``image`` (or ``image.bytes``, as Hugging Face writes it, or
``jpg``, ``image_bytes`` and so on), with a column ``captions``, ``caption``, ``text`` or ``TEXT``.

The split is what a file's name ends in (``things-val.parquet``), or its folder's (``val/0000.parquet``), else "train".
Further columns of text come along, and columns of numbers (LAION's similarity, AESTHETIC_SCORE, punsafe ...) are there
to choose by. Tables that hold only addresses, such as LAION's, are refused: no address is ever fetched here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from etils import epath

from t2i_jax.data.pictures import BadPicture
from t2i_jax.data.sources import raw

_UNIT, _PARTS, _ROWS = 500, 8, 16


@dataclass(frozen=True)
class Parquet(raw.Source):
    """A file, or a folder of files, sorted by name."""

    path: epath.Path

    def units(self) -> Iterator[raw.Unit]:
        """At least 500 rows each, and at most 8 to a row group: each reads through the rows of the group before it.

        Raises ValueError for a table without pictures.
        """
        for name in self._names():
            try:
                with (self.path / name).open("rb") as stream:
                    file = _open(stream)
                    groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
                    columns = file.schema_arrow.names
            except BadPicture:
                yield raw.Unit(name, 0, -1)  # reading it tells the reason
                continue
            _refuse_addresses((self.path / name).name, columns)
            start = 0
            for rows in groups:
                size = max(_UNIT, -(-rows // _PARTS))
                for first in range(start, start + rows, size):
                    yield raw.Unit(name, first, min(first + size, start + rows))
                start += rows

    def without_pictures(self) -> bool:
        """Whether the first table has no column of pictures."""
        with (self.path / self._names()[0]).open("rb") as stream:
            try:
                return not set(raw.PICTURE_NAMES) & set(_open(stream).schema_arrow.names)
            except BadPicture:
                return False

    def _names(self) -> list[str]:
        if not self.path.is_dir():
            return [""]
        return [name for name in raw.files_below(self.path) if name.endswith(".parquet")]

    def read(self, unit: raw.Unit) -> Iterator[raw.Found]:
        path = self.path / unit.path
        name, number = unit.path or path.name, unit.first
        try:
            with path.open("rb") as stream:
                for row in _rows(_open(stream), unit.first, unit.last):
                    try:
                        item = _picture(name, number, row)
                    except BadPicture as error:
                        item = error
                    yield f"{name} row {number}", item
                    number += 1
        except BadPicture as error:
            yield f"{name} from row {number}", error


def _open(stream):
    import pyarrow as pa
    import pyarrow.parquet

    try:
        # a buffer, so that a column of a row group is read in pieces and not whole
        return pyarrow.parquet.ParquetFile(
            stream, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True,
            thrift_string_size_limit=16 << 20, thrift_container_size_limit=1 << 20,
        )  # fmt: skip
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadPicture("broken Parquet file", str(error)[:200]) from error


def _rows(file, first: int, last: int) -> Iterator[dict]:
    """Rows ``first`` to ``last`` of a file. Raises BadPicture where the file is broken."""
    import pyarrow as pa

    try:
        start = 0
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if first < start + rows and start < last:
                at = start
                for batch in file.iter_batches(_ROWS, row_groups=[group], use_threads=False):
                    if at + len(batch) > first:
                        for i, row in enumerate(_as_rows(batch), at):
                            if first <= i < last:
                                yield row
                    at += len(batch)
                    if at >= last:
                        break
            start += rows
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise BadPicture("broken Parquet file", str(error)[:200]) from error


def _as_rows(batch) -> list[dict]:
    """Rows as dicts; a text that is not UTF-8 makes only its own row unusable."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        return [_as_row(batch.slice(i, 1)) for i in range(len(batch))]


def _as_row(one) -> dict:
    try:
        return one.to_pylist()[0]
    except UnicodeDecodeError as error:
        return {"": error}


def _picture(name: str, number: int, row: dict) -> raw.Raw:
    if "" in row and isinstance(row[""], UnicodeDecodeError):
        raise BadPicture("caption is not UTF-8", str(row[""]))
    image = row.pop(next((n for n in raw.PICTURE_NAMES if row.get(n) is not None), None), None)
    image = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(image, bytes):
        raise BadPicture("missing picture", f"no bytes in a column image; columns: {', '.join(row)}")
    if len(image) > raw.MAX_BYTES:
        raise BadPicture("too many bytes", f"{len(image)}")
    captions = raw.captions_in(row)
    more = {k: v for k, v in row.items() if _is_text(v) and k not in ("key", raw.caption_name(row))}
    key = str(row.get("key") or f"{name.removesuffix('.parquet')}-{number:08d}")
    return raw.Raw(key, raw.split_of(name), image, captions, more, raw.scores_in(row))


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))


def _refuse_addresses(name: str, columns: list[str]) -> None:
    if set(raw.PICTURE_NAMES) & set(columns):
        return
    if address := next((column for column in columns if column.lower() in ("url", "image_url")), None):
        raise ValueError(
            f"{name} has addresses of pictures (column {address}) and no pictures, and nothing is ever "
            f"downloaded here. Fetch them first: `img2dataset --url_list FILE --input_format parquet --url_col "
            f"{address} --caption_col TEXT --output_format webdataset --output_folder TARS`; "
            "then `t2i data build TARS`."
        )
    raise ValueError(f"{name} has no column of pictures ({', '.join(raw.PICTURE_NAMES)}); it has {', '.join(columns)}")
