"""Where captioned pictures come from before they are a data set.

    source = source_of("PICTURES")
    for unit in source.units():
        for where, item in source.read(unit):        # a Raw, or a BadPicture that says why not

Local paths, all that etils.epath opens (gs://, s3://, az://, hf:// with the packages that these need), and, where no
path is so called, the name of what TFDS prepared on this machine. A source is cut into units, which depend on its
content alone, so that processes or machines can share the work and always agree.
"""

import os
from pathlib import Path, PurePosixPath

from etils import epath

from t2i_jax.data.dataset import find, newest
from t2i_jax.data.pictures import SUFFIXES
from t2i_jax.data.sources.folder import Folder
from t2i_jax.data.sources.imagefolder import METADATA, ImageFolder
from t2i_jax.data.sources.parquet import Parquet
from t2i_jax.data.sources.raw import Raw, Source, Unit, files_below
from t2i_jax.data.sources.tfds import TFDS, is_array_record
from t2i_jax.data.sources.tfrecord import TFRecord, is_tfrecord
from t2i_jax.data.sources.webdataset import WebDataset

__all__ = ["Raw", "Source", "Unit", "source_of"]


def source_of(path: str | os.PathLike) -> Source:
    """The source that ``path`` is. Raises FileNotFoundError or ValueError, naming it, where it is none."""
    path = epath.Path(path).expanduser()
    try:
        found = path.exists()
    except ImportError as error:
        raise ValueError(f"{path} can't be opened: {error} (pip install it beside t2i_jax)") from error
    if not found:
        try:
            path = epath.Path(find(os.fspath(path)))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"no such folder or file: {path}, nor has TFDS prepared a data set of that name on this machine"
            ) from error
    if not path.is_dir():
        if kind := _kind(path.name):
            return kind(path.parent if kind is ImageFolder else path)
        raise ValueError(
            f"{path} is neither a folder nor a .parquet file, nor a .tar, .tfrecord or {METADATA}; "
            "compressed ones are to be unpacked first"
        )
    if "://" not in os.fspath(path) and (home := newest(Path(path))) and is_array_record(home):
        return TFDS(epath.Path(home))
    if (path / METADATA).is_file():
        return ImageFolder(path)
    picture = table = False
    for name in files_below(path):
        # a tar or record file holds pictures; a picture on its own may be beside it by chance. So may a table:
        # img2dataset puts one without pictures beside each tar, file of records or folder that it writes
        kind = _kind(name)
        if kind and kind is not Parquet:
            return kind(path)
        picture = picture or PurePosixPath(name).suffix.lower() in SUFFIXES
        table = table or kind is Parquet
    if table and not (picture and Parquet(path).without_pictures()):
        return Parquet(path)
    if picture:
        return Folder(path)
    if next(iter(path.iterdir()), None) is None:
        raise ValueError(f"the folder {path} is empty; put pictures there, each with a .txt caption beside it")
    raise ValueError(
        f"no pictures ({', '.join(sorted(SUFFIXES))}) and no .parquet, .tar, .tfrecord or {METADATA} files in {path}"
    )


def _kind(name: str) -> type[Source] | None:
    last = PurePosixPath(name).name
    if last == METADATA:
        return ImageFolder
    if last.endswith(".parquet"):
        return Parquet
    if last.endswith(".tar"):
        return WebDataset
    return TFRecord if is_tfrecord(last) else None
