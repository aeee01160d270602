"""The one form in which data sets are kept: a TFDS directory of ArrayRecord files, with a manifest.

    NAME/1.0.0/NAME-train.array_record-00000-of-00002   records: tf.train.Example, every feature text or bytes
               dataset_info.json features.json          TFDS's own description: tfds.builder_from_directory reads it
               manifest.json                            counts, SHA-256 of every file, digest of every split

ArrayRecord has an index, so that any record is one read away, and a checksum on every block. Nothing here needs
TensorFlow: the protocol buffer class comes with TFDS.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shards:
    """What was written of one split: digests of the files by name, in order; records in each; bytes of all records."""

    files: Mapping[str, str]
    lengths: tuple[int, ...]
    bytes: int


def serialize(example: Mapping[str, bytes | str | list[str]]) -> bytes:
    """One example as a tf.train.Example; the same bytes for the same example."""
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    features = {}
    for name, value in example.items():
        values = value if isinstance(value, list) else [value]
        raw = [v.encode("utf-8", "replace") if isinstance(v, str) else v for v in values]
        features[name] = tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=raw))
    message = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=features))
    return message.SerializeToString(deterministic=True)


def parse(record: bytes) -> dict[str, list]:
    """The feature lists of a serialised tf.train.Example: bytes, ints or floats. Raises ValueError for other bytes."""
    example, fault = _messages()
    try:
        features = example.FromString(record).features.feature
    except fault as error:
        raise ValueError(f"not a tf.train.Example: {error}") from error
    # a slice is a list at once; list() would ask for value after value
    return {
        name: getattr(value, kind).value[:] for name, value in features.items() if (kind := value.WhichOneof("kind"))
    }


@cache
def _messages() -> tuple[type, type[Exception]]:
    """tf.train.Example and what it raises; an import statement in ``parse`` would take as long as it."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example, DecodeError


def complete(record: bytes, missing: Mapping[str, bool]) -> bytes:
    """The record with an empty text, or an empty list where True, for each field that it lacks: TFDS wants them all."""
    if not missing:
        return record
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example.FromString(record)
    for name, many in missing.items():
        example.features.feature[name].bytes_list.value.extend([] if many else [b""])
    return example.SerializeToString(deterministic=True)


def write_file(path: Path, records: Iterable[bytes], group: int) -> None:
    """An ArrayRecord file. ``group`` records are compressed together: 1 is best for pictures of tens of kilobytes, 16
    for tiny ones."""
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), f"group_size:{group}")
    for record in records:
        writer.write(record)
    writer.close()


def write_metadata(
    directory: Path,
    name: str,
    version: str,
    splits: Mapping[str, Shards],
    fields: Mapping[str, bool],
    shape: tuple[int | None, int | None, int],
    description: str,
) -> None:
    """dataset_info.json and features.json, as TFDS writes them. ``fields``: the texts; True for a list."""
    import tensorflow_datasets as tfds

    kinds = tfds.features
    features = {"image": kinds.Image(shape=shape)}
    features |= {name: kinds.Sequence(kinds.Text()) if many else kinds.Text() for name, many in fields.items()}
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory,
        dataset_name=name,
        filetype_suffix="array_record",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=features,
        version=version,
        filename_template=template,
        split_infos=[
            tfds.core.SplitInfo(
                name=split, shard_lengths=list(shards.lengths), num_bytes=shards.bytes, filename_template=template
            )
            for split, shards in splits.items()
        ],
        check_data=False,
        description=description,
    )


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def split_digest(files: Mapping[str, str]) -> str:
    """Digest of a split from the digests of its files, by file name in order."""
    return hashlib.sha256("".join(f"{name} {files[name]}\n" for name in sorted(files)).encode()).hexdigest()


def write_manifest(directory: Path, splits: Mapping[str, Shards], **facts) -> dict:
    """manifest.json: ``facts`` beside the records, files, sizes and digests of every split. Returns what it wrote."""
    manifest = {**facts, "splits": {}}
    for split, shards in splits.items():
        manifest["splits"][split] = {
            "records": sum(shards.lengths),
            "bytes": sum((directory / file).stat().st_size for file in shards.files),
            "digest": split_digest(shards.files),
            "files": dict(shards.files),
        }
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest
