"""A trained cascade's pictures for captions, into a file: what ``t2i sample`` and ``t2i demo`` do."""

import json
from pathlib import Path

import numpy as np

from t2i_jax.dalle2 import DallE2
from t2i_jax.parallel.hosts import company, join, leader
from t2i_jax.training.experiment import check_seed
from t2i_jax.training.run import make_folder
from t2i_jax.training.sheet import sheet


@company()
def paint(
    run: str, captions: list[str], n: int, seed: int, out: str, guidance: float | None = None, best_of: int = 1
) -> None:
    """``n`` pictures a caption into a .png sheet, or an .npz with ``images`` uint8 [n * len(captions), h, w, 3].

    ``guidance``: of the decoder; None takes the config's. ``best_of``: as ``DallE2`` takes it. Several processes,
    started as for a training, paint together and the first one writes. Raises ValueError for another kind of file, a
    folder in its place or a count below one.
    """
    check_name(out)
    for option, count in (("n", n), ("best-of", best_of)):
        if count < 1:
            raise ValueError(f"--{option} {count}: at least one picture is painted")
    check_seed(seed)
    join()
    if leader():
        make_folder(Path(out).parent)
    model = DallE2.load(run)
    if guidance is not None:
        model = model.guided(guidance)
    images = model(captions, n=n, seed=seed, best_of=best_of)
    if not leader():
        return
    if out.endswith(".npz"):
        np.savez_compressed(out, images=images)
    else:
        sheet(images, [caption for caption in captions for _ in range(n)], out)
    print(f"{len(images)} pictures in {out}")


def check_name(out: str) -> None:
    """Raise ValueError where ``out`` is no name of a file that ``paint`` writes."""
    if Path(out).suffix not in (".png", ".npz"):
        raise ValueError(f"--out {out}: the name must end in .png (a sheet) or .npz (arrays)")
    if Path(out).is_dir():
        raise ValueError(f"--out {out} is a folder: name a file, such as {Path(out) / 'sheet'}{Path(out).suffix}")


def read_captions(path: str) -> list[str]:
    """The captions of a JSON-lines file of ``{"caption": "..."}`` or plain strings, in UTF-8.

    Raises ValueError that names the line; a file without any has a bad first one.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")  # a caption may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--captions {path}: {error}") from error
    texts = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            text = row if isinstance(row, str) else row["caption"]
            if not isinstance(text, str):
                raise TypeError
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f'{path}, line {number}: expected {{"caption": "..."}}, found {line[:80]!r}') from error
        texts.append(text)
    return texts
