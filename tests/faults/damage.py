"""What disks and people do to a file: each kind changes its bytes, and none tells anybody.

    damage(path, kind, rng, other)      # `other`: a file of the same folder in another step, for "swap"
"""

import shutil
from pathlib import Path

KINDS = ("flip", "truncate", "zeros", "delete", "empty", "garbage", "swap")


def damage(path: Path, kind: str, rng, other: Path) -> None:
    """Damage ``path``; ``rng`` (NumPy's) decides where. The bytes are others afterwards, or the file is gone."""
    before = path.read_bytes()
    data = bytearray(before)
    if kind == "delete":
        path.unlink()
        return
    if kind == "swap":
        shutil.copyfile(other, path)
    elif kind == "flip":
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] ^= 1 << rng.integers(0, 8)
    elif kind == "truncate":
        del data[rng.integers(0, len(data)) :]
    elif kind == "zeros":
        start = rng.integers(0, len(data))
        data[start : start + 512] = bytes(len(data[start : start + 512]))
    elif kind == "empty":
        data.clear()
    elif kind == "garbage":
        data = bytearray(b'{"tree_metadata": [}')
    if kind != "swap":
        path.write_bytes(data)
    if path.read_bytes() == before:  # zeros over zeros, two flips of one bit
        damage(path, kind, rng, other)


def files_of(step: Path) -> list[Path]:
    """Every file of a checkpoint, in an order that does not depend on the disk; the data files' names are random."""
    files = (path for path in step.rglob("*") if path.is_file())
    return sorted(files, key=lambda path: (path.parent, path.stat().st_size))
