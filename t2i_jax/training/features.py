"""Features on disk: one directory a content key, one ``.npy`` a feature, complete or not there."""

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from t2i_jax.parallel.mesh import split_batch
from t2i_jax.types import Params

FORMAT = 1
CHUNK = 256
"""Views that go through the frozen stages at once."""
_NOTES = "notes.json"

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the errors of a disk that is full, for this user or for a file so large."""

Function = Callable[[dict[str, Params], Array], dict[str, Array]]


class NoRoom(OSError):
    """The disk has no room for the features."""


class Store:
    """The features of ``views`` views under the key made of ``parts`` (plain JSON), below ``root``."""

    def __init__(self, root: Path, parts: dict[str, Any], shapes: dict[str, jax.ShapeDtypeStruct], views: int):
        shape = {name: [str(leaf.dtype), views, *leaf.shape[1:]] for name, leaf in shapes.items()}
        self.parts = {"format": FORMAT, "features": shape} | parts
        self.shapes, self.views = shapes, views
        key = hashlib.sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()
        self.directory = Path(root) / key

    def complete(self) -> bool:
        return (self.directory / _NOTES).exists()

    def notes(self) -> dict[str, Any]:
        """What the writer noted."""
        return json.loads((self.directory / _NOTES).read_text())["notes"]

    def open(self) -> dict[str, np.ndarray]:
        """The features as read-only memory maps, [views, ...]. Raises ValueError where files were damaged."""
        found = {}
        for name, leaf in self.shapes.items():
            path, shape = self.directory / f"{name}.npy", (self.views, *leaf.shape[1:])
            try:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise ValueError(f"{path} is damaged ({error}); delete {self.directory} to compute it anew") from error
            if array.shape != shape or array.dtype != leaf.dtype:
                raise ValueError(
                    f"{path} holds {array.dtype} {array.shape} where {leaf.dtype} {shape} was written; delete "
                    f"{self.directory} to compute it anew"
                )
            found[name] = array
        return found

    def write(
        self, function: Function, frozen: dict[str, Params], mesh: jax.sharding.Mesh, chunks: Iterator[np.ndarray],
        notes: Callable[[], dict[str, Any]] = dict,
    ) -> None:  # fmt: skip
        """Compute ``function(frozen, chunk)`` for all chunks (``CHUNK`` views each but the last) and commit.

        ``notes()`` is asked at the end for what ``self.notes()`` shall give. Raises FloatingPointError where a feature
        is not finite in float16, and NoRoom.
        """
        root = self.directory.parent
        root.mkdir(parents=True, exist_ok=True)
        for abandoned in root.glob(f"{self.directory.name}.*"):
            shutil.rmtree(abandoned)
        partial = Path(tempfile.mkdtemp(prefix=f"{self.directory.name}.", dir=root))
        try:
            self._compute(partial, function, frozen, mesh, chunks)
            record = self.parts | {"notes": notes()}
            (partial / _NOTES).write_text(json.dumps(record, indent=1) + "\n")
            os.rename(partial, self.directory)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                size = self.views * sum(math.prod(x.shape[1:]) * x.dtype.itemsize for x in self.shapes.values())
                raise NoRoom(
                    f"the features of {self.views} views take {size:,} bytes in {root}, which has no room for them "
                    f"({error.strerror}): make room, or compute them within every step by --cache-gb 0"
                ) from error
            raise

    def _compute(
        self, directory: Path, function: Function, frozen: dict, mesh: jax.sharding.Mesh, chunks: Iterator[np.ndarray]
    ) -> None:
        files = {
            name: np.lib.format.open_memmap(
                directory / f"{name}.npy", mode="w+", dtype=leaf.dtype, shape=(self.views, *leaf.shape[1:])
            )
            for name, leaf in self.shapes.items()
        }
        for name in files:
            _reserve(directory / f"{name}.npy")

        @jax.jit
        def narrow(frozen: dict, chunk: Array) -> dict[str, Array]:
            return {name: leaf.astype(stored(leaf).dtype) for name, leaf in function(frozen, chunk).items()}

        ways = mesh.shape["replica"] * mesh.shape["data"]
        width = -(-CHUNK // ways) * ways
        row = 0
        for chunk in chunks:
            padded = np.concatenate([chunk, np.repeat(chunk[-1:], width - len(chunk), axis=0)])
            features = jax.device_get(narrow(frozen, jax.device_put(padded, split_batch(mesh))))
            for name, file in files.items():
                part = features[name][: len(chunk)]
                if not np.isfinite(part).all():
                    raise FloatingPointError(
                        f"the feature {name!r} is not finite in float16 for views {row} to {row + len(chunk) - 1}: "
                        "look at the frozen stage, or set cache_gb to 0"
                    )
                file[row : row + len(chunk)] = part
            row += len(chunk)
        if row != self.views:
            raise ValueError(f"{row} views were computed of {self.views}")
        for file in files.values():
            file.flush()


def _reserve(path: Path) -> None:
    """Take the room of a file that has holes. Where there is none, that is an error; to a memory map it is SIGBUS."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def stored(leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape of a feature as it is kept: floats as float16."""
    narrow = jnp.issubdtype(leaf.dtype, jnp.floating)
    return jax.ShapeDtypeStruct(leaf.shape, np.dtype(np.float16) if narrow else leaf.dtype)


def program_of(
    function: Function, frozen: dict[str, Params], batch: jax.ShapeDtypeStruct
) -> tuple[str, dict[str, jax.ShapeDtypeStruct]]:
    """SHA-256 of the program that JAX makes of ``function`` for ``CHUNK`` views, its code and every constant in it, and
    the shapes of its features for ``batch``."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), frozen)
    views = jax.ShapeDtypeStruct((CHUNK, *batch.shape[1:]), batch.dtype)
    lowered = jax.jit(function).lower(shapes, views)
    digest = hashlib.sha256(lowered.as_text().encode()).hexdigest()
    of_batch = lambda leaf: jax.ShapeDtypeStruct((batch.shape[0], *leaf.shape[1:]), leaf.dtype)
    return digest, {name: of_batch(leaf) for name, leaf in lowered.out_info.items()}
