"""A manifest of digests beside a checkpoint's files: what was written, so that what is read can be known to be that.

``manifest.json`` in a step's directory names its step and every other file with its size and the XXH3-128 of each block
of ``BLOCK`` bytes (of a file within one block that is the file's ``xxh128sum``); a digest over all this ends it. It is
made from the files themselves, read back once they are on the disk, and is the last file to come into the directory.
It tells damage, not forgery: a hash against forgery took a sixth of the save.

    write_manifest(directory, step)
    faults = check(directory)               # [] where every byte is as it was written
    faults = check(directory, ("ema",))     # of one item alone
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import xxhash

MANIFEST = "manifest.json"
BLOCK = 2**24
"""Bytes under one digest: small enough that all cores have work, and that a fault is known to a few megabytes."""
_READ = 2**20
_FORMAT = 2
_HASH = "xxh3_128"


class OtherForm(ValueError):
    """A manifest that is whole and of a form that this version does not read; the message names it."""


def write_manifest(directory: Path, step: int) -> None:
    """Bring every file of ``directory`` onto the disk and write their digests beside them, whole or not at all."""
    files = sorted(_files(directory))
    sizes = {name: _settle(directory / name) for name in files}
    digests = _digests(directory, sizes, BLOCK)
    body = {
        "format": _FORMAT, "step": step, "block": BLOCK,
        "files": {name: {"size": sizes[name], _HASH: digests[name]} for name in files},
    }  # fmt: skip
    partial = directory / f"{MANIFEST}.partial"
    with partial.open("w") as file:
        json.dump(body | {"digest": _digest(body)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, directory / MANIFEST)
    for parent in {directory, *(path.parent for path in map(directory.joinpath, files))}:
        sync_directory(parent)


def check(directory: Path, items: Sequence[str] | None = None) -> list[str]:
    """What is wrong with the files of ``directory``, each with its name; [] if nothing is.

    ``items``: folders in it that are looked at, all unless given. Files that no manifest names are not looked at.
    Raises OSError, naming the path, where a file is there and can't be read now (a disk that fails, a mount that is
    gone, a right that lacks), and OtherForm: of neither is known that anything is wrong with the files.
    """
    try:
        manifest = read_manifest(directory)
    except OtherForm:
        raise
    except ValueError as error:
        return [str(error)]
    wanted = {name: entry for name, entry in manifest["files"].items() if items is None or name.split("/")[0] in items}
    found, faults = {}, []
    for name, entry in wanted.items():
        try:
            size = (directory / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            faults.append(f"{name}: it is missing")
            continue
        if size != entry["size"]:
            faults.append(f"{name}: it has {size:,} bytes, and {entry['size']:,} were written")
        else:
            found[name] = size
    try:
        digests = _digests(directory, found, manifest["block"])
    except FileNotFoundError as error:  # a training that is under way lets go of its old steps
        return [*faults, f"{error.filename}: it is missing"]
    for name, blocks in digests.items():
        bad = [i for i, (now, then) in enumerate(zip(blocks, wanted[name][_HASH], strict=True)) if now != then]
        if bad:
            first, last = bad[0] * manifest["block"], min((bad[-1] + 1) * manifest["block"], found[name]) - 1
            faults.append(f"{name}: its bytes are not those that were written (between {first:,} and {last:,})")
    return faults


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of ``directory``. Raises ValueError, naming it, where it is missing, damaged or another step's,
    OtherForm and OSError as ``check``."""
    try:
        with _naming(directory / MANIFEST):
            manifest = json.loads((directory / MANIFEST).read_bytes())
        claimed, form = manifest.pop("digest"), manifest["format"]
    except FileNotFoundError:
        raise ValueError(f"{MANIFEST}: it is missing, so nothing vouches for the files") from None
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"{MANIFEST}: it is damaged ({type(error).__name__}: {error})") from error
    if claimed != _digest(manifest):
        raise ValueError(f"{MANIFEST}: it is damaged: its own digest is another")
    if form != _FORMAT:
        raise OtherForm(
            f"{directory / MANIFEST} is of the form {form}, and this version of t2i_jax reads {_FORMAT}: go on with "
            "the version that wrote it, or, if you trust the files, write a manifest anew (docs/reliability.md: how)"
        )
    if str(manifest["step"]) != directory.name.split(".")[0]:
        raise ValueError(f"{MANIFEST}: it is that of step {manifest['step']}")
    return manifest


def sync_directory(directory: Path) -> None:
    """Bring a directory's entries onto the disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        sync(handle)
    finally:
        os.close(handle)


def sync(handle: int) -> None:
    """Bring an open file onto the disk."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a mounted bucket has nothing to bring anywhere
            raise


def _files(directory: Path) -> Iterator[str]:
    own = (MANIFEST, f"{MANIFEST}.partial")
    for path in directory.rglob("*"):
        name = path.relative_to(directory).as_posix()
        if path.is_file() and name not in own:
            yield name


def _settle(path: Path) -> int:
    """Bring a file onto the disk; returns its size."""
    with path.open("rb") as file:
        sync(file.fileno())
        return os.fstat(file.fileno()).st_size


def _digests(directory: Path, sizes: dict[str, int], block: int) -> dict[str, list[str]]:
    """XXH3-128 of every block of every file, by all cores: reading and hashing leave the others to work."""
    places = [(name, start) for name, size in sizes.items() for start in range(0, max(size, 1), block)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        made = pool.map(lambda place: _digest_at(directory / place[0], place[1], block), places)
        digests: dict[str, list[str]] = {name: [] for name in sizes}
        for (name, _), value in zip(places, made):
            digests[name].append(value)
    return digests


def _digest_at(path: Path, start: int, length: int) -> str:
    total, room = xxhash.xxh3_128(), memoryview(bytearray(_READ))
    with _naming(path), path.open("rb", buffering=0) as file:
        file.seek(start)
        while length > 0 and (count := file.readinto(room[:length])):
            total.update(room[:count])
            length -= count
    return total.hexdigest()


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An OSError inside names the file, which one of reading an open file does not of itself."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
