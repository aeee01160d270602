"""TFRecord files of tf.train.Example with a picture (``image``, ``image/encoded`` ...) and a caption (``caption``,
``text``, ``captions/text`` ...), read without TensorFlow, every checksum verified.

A record is: length (8 bytes, little-endian), its masked CRC-32C, the data, its masked CRC-32C. A flipped bit in the
data costs that record; one in a length, the rest of the file, for nothing tells where the next record begins.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from etils import epath

from t2i_jax.data.crc32c import masked
from t2i_jax.data.form import parse
from t2i_jax.data.pictures import BadPicture
from t2i_jax.data.sources import raw

_MOST = 2 * raw.MAX_BYTES
_STEP = 1 << 20


def is_tfrecord(name: str) -> bool:
    """Whether a file's name says TFRecord: ``x.tfrecord``, ``x.tfrecords-00000-of-00010``, ``x.tfrec``."""
    return ".tfrec" in name.rpartition("/")[2]


@dataclass(frozen=True)
class TFRecord(raw.Source):
    """A file, or a folder of them, sorted by name; each is one piece of work. The split is what the name ends in
    ("things-val.tfrecord-00000-of-00010"), or its folder's, else "train"."""

    path: epath.Path

    def units(self) -> Iterator[raw.Unit]:
        names = raw.files_below(self.path) if self.path.is_dir() else [""]
        yield from (raw.Unit(name) for name in names if not name or is_tfrecord(name))

    def read(self, unit: raw.Unit) -> Iterator[raw.Found]:
        path = self.path / unit.path
        name = unit.path or path.name
        with path.open("rb") as file:
            for number, record in enumerate(records(file)):
                try:
                    if isinstance(record, BadPicture):
                        raise record
                    yield f"{name} record {number}", _picture(name, number, record)
                except BadPicture as error:
                    yield f"{name} record {number}", error


def records(file) -> Iterator[bytes | BadPicture]:
    """The records of a file, in order, and what stands for one that is damaged. ``file``: anything with a
    read()."""
    while head := file.read(12):
        if len(head) < 12:
            yield BadPicture("truncated TFRecord file", "within a length")
            return
        if masked(head[:8]) != int.from_bytes(head[8:], "little"):
            yield BadPicture("broken TFRecord file", "a length that is not true to its checksum, or compressed")
            return
        (length,) = struct.unpack("<Q", head[:8])
        if length > _MOST:
            yield BadPicture("too many bytes", f"{length} in a record")
            while length := length - len(data := file.read(min(length, _STEP))):
                if not data:
                    break
            file.read(4)
            continue
        data, check = file.read(length), file.read(4)
        if len(data) < length or len(check) < 4:
            yield BadPicture("truncated TFRecord file", f"{length} bytes were to come")
            return
        if masked(data) != int.from_bytes(check, "little"):
            yield BadPicture("damaged record", "not true to its checksum")
            continue
        yield data


def _picture(name: str, number: int, record: bytes) -> raw.Raw:
    try:
        features = parse(record)
    except ValueError as error:
        raise BadPicture("damaged record", str(error)) from error
    picture = next((n for n in raw.PICTURE_NAMES if features.get(n)), None)
    if picture is None or not isinstance(features[picture][0], bytes):
        raise BadPicture("missing picture", f"it has {', '.join(list(features)[:20])}")
    image = features.pop(picture)[0]
    if len(image) > raw.MAX_BYTES:
        raise BadPicture("too many bytes", f"{len(image)}")
    lists = {n: [raw.as_text(v) for v in vs] for n, vs in features.items() if _is_text(n, vs)}
    row = {n: vs[0] for n, vs in features.items() if len(vs) == 1 and not isinstance(vs[0], bytes)}
    row |= {n: vs[0] if len(vs) == 1 else vs for n, vs in lists.items()}
    folder, slash, last = name.rpartition("/")
    stem = last.replace(".tfrecord", "").replace(".tfrec", "")
    key = str(row.get("key") or row.get("image/filename") or f"{folder}{slash}{stem}-{number:08d}")
    return raw.Raw(key, raw.split_of(name), image, raw.captions_in(row), raw.texts_in(row), raw.scores_in(row))


def _is_text(name: str, values: list) -> bool:
    wanted = name in raw.CAPTION_NAMES or name.lower() in raw.KEPT_TEXTS or name in ("key", "image/filename")
    return wanted and bool(values) and all(isinstance(value, bytes) for value in values)
