"""Small folders of captioned pictures, and the data sets built from them."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2i_jax.data import load_dataset
from t2i_jax.data.build import build


def picture(seed: int, size: tuple[int, int] = (20, 16), kind: str = "PNG", **options) -> bytes:
    """A file of a smooth random picture, (width, height) in size."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 3, 3), np.uint8))
    out = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).save(out, kind, **options)
    return out.getvalue()


def fill(folder: Path, files: dict[str, bytes | str]) -> Path:
    """Write files below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def folder_of(folder: Path, count: int, kind: str = "PNG") -> Path:
    """``count`` pictures with two captions each."""
    files = {f"{i:03d}.{kind.lower()}": picture(i, kind=kind) for i in range(count)}
    files |= {f"{i:03d}.txt": f"a thing of kind {'abcdefgh'[i % 8]}\na small drawing of it\n" for i in range(count)}
    return fill(folder, files)


@pytest.fixture(scope="session")
def mixed(tmp_path_factory):
    """37 PNG and JPEG pictures of several sizes and kinds, as a data set."""
    home = tmp_path_factory.mktemp("mixed")
    files = {}
    for i in range(37):
        kind = ("PNG", "JPEG")[i % 2]
        size = [(16, 16), (40, 20), (130, 70), (9, 30)][i % 4]
        files[f"{i:03d}.{kind.lower()}"] = picture(i, size, kind)
        hand = " pointing left" if i % 3 == 0 else ""
        files[f"{i:03d}.txt"] = "".join(f"thing {'abc'[k]} of the kind{hand}\n" for k in range(1 + i % 3))
    build(fill(home / "in", files), home / "mixed")
    return load_dataset(home / "mixed")
