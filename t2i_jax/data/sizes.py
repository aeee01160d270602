"""Height and width of every picture of a data set, from the headers alone, read once and kept.

    sizes(dataset, RUN / "cache")      int32 [n, 2], from RUN/cache/sizes-<digest of the data set>.npy or written there

The file's name holds the digest of the data, so another picture is another file. A picture rotated by EXIF counts as it
is shown; one whose header can't be read is 0 by 0.
"""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from t2i_jax.data.dataset import Dataset
from t2i_jax.data.pictures import BadPicture, open_header, orientation

_CHUNK = 1024
_ON_THEIR_SIDE = (5, 6, 7, 8)


def sizes(dataset: Dataset, root: Path | None = None) -> np.ndarray:
    """int32 [n, 2]: height and width of every picture. ``root``: the directory of the file; None keeps none.

    Raises ValueError, naming the file, where it was damaged.
    """
    if root is None:
        return _read(dataset)
    path = root / f"sizes-{dataset.digest}.npy"
    if not path.exists():
        root.mkdir(parents=True, exist_ok=True)
        _write(path, _read(dataset))
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it to have it made anew") from error
    if found.shape != (len(dataset), 2) or found.dtype != np.int32:
        raise ValueError(
            f"{path} holds {found.dtype} {found.shape} where {dataset.name} {dataset.split} has {len(dataset)} "
            "pictures; delete it to have it made anew"
        )
    return found


def _read(dataset: Dataset) -> np.ndarray:
    out = np.zeros((len(dataset), 2), np.int32)

    def chunk(start: int) -> None:
        rows = range(start, min(start + _CHUNK, len(dataset)))
        for index, record in zip(rows, dataset.records(rows)):
            out[index] = size_of(record["image"])

    with ThreadPoolExecutor() as pool:
        list(pool.map(chunk, range(0, len(dataset), _CHUNK)))
    return out


def size_of(image: bytes) -> tuple[int, int]:
    """Height and width of a picture as it is shown; 0, 0 where its header can't be read."""
    try:
        header = open_header(image)
    except BadPicture:
        return 0, 0
    width, height = header.size
    return (width, height) if orientation(header) in _ON_THEIR_SIDE else (height, width)


def _write(path: Path, table: np.ndarray) -> None:
    """Several processes may write the same at once: each a file of its own, the last name stays."""
    part = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}")
    with part.open("wb") as file:
        np.save(file, table)
    os.replace(part, path)
