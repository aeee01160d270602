"""Pictures a second of the input pipeline against libjpeg-turbo alone, on the same cores, turn by turn.

    python -m benchmarks.pipeline [--pictures 1024] [--epochs 8] [--batch 64] [--rounds 5] [--cores 2]

A data set of JPEGs whose shorter side is 256 pixels is built. Our side is ``batches`` as a training reads it: records
by index, checks, decoding, cut, tokens, uint8 batches. The other sides take the same bytes in as many threads and keep
nothing: Pillow (which is Pillow-SIMD where that is installed) decodes and resizes, or simplejpeg decodes and Pillow
resizes what it gave. Rounds alternate; a share is the median of the rounds' own. Wall time on a shared machine swings,
so the CPU time that each side takes is compared too.
"""

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import simplejpeg
from PIL import Image

from t2i_jax.data import Data, batches, load_dataset
from t2i_jax.data.build import build
from t2i_jax.parallel.memory import keep_memory
from t2i_jax.text import Tokenizer

SIDE = 256
WIDTHS = (256, 320, 341, 384)


@dataclass(frozen=True)
class Case:
    """One kind of work: the size that pictures come out at, and whether they are mirrored at random."""

    name: str
    size: int
    flip: bool = False


CASES = (
    Case("cut to 256", 256),
    Case("cut to 256, mirrored at random", 256, flip=True),
    Case("resized to 192", 192),
    Case("scaled to 64 in decoding", 64),
)


def picture(rng: np.random.Generator, width: int) -> bytes:
    """A JPEG of a smooth random picture with some grain: about 24 kB at 256 x 256, as a photograph has."""
    coarse = Image.fromarray(rng.integers(0, 256, (SIDE // 8, width // 8, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, SIDE), Image.Resampling.BICUBIC)).astype(np.float32)
    grainy = (smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(grainy).save(out, "JPEG", quality=90)
    return out.getvalue()


def by_simplejpeg(data: bytes, size: int) -> np.ndarray:
    """What the pixels need and nothing else: decode, at a fraction where that is enough, cut, resize."""
    scale = max(s for s in (1, 2, 4, 8) if s * size <= SIDE)
    least = {"min_height": SIDE // scale, "min_width": SIDE // scale} if scale > 1 else {}
    image = simplejpeg.decode_jpeg(data, **least)
    height, width = image.shape[:2]
    if height == size:
        left = (width - height) // 2
        return image[:, left : left + size]
    return cut_and_resized(Image.fromarray(image), size)


def by_pillow(data: bytes, size: int) -> np.ndarray:
    """The same by Pillow from beginning to end."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (size, size))
    return cut_and_resized(image, size)


def cut_and_resized(image: Image.Image, size: int) -> np.ndarray:
    width, height = image.size
    left = (width - height) // 2
    box = (left, 0, left + height, height)
    if height == size:
        return np.asarray(image.crop(box))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0))


def seconds(work) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def settle() -> None:
    """Return when no thread of this process works any more."""
    while True:
        before = time.process_time()
        time.sleep(0.004)
        if time.process_time() - before < 0.001:
            return


def measure(
    case: Case, dataset, files: list[bytes], tokenizer: Tokenizer, batch: int, rounds: int, cores: int, epochs: int
) -> None:
    data = Data(batch=batch, image_size=case.size, flip=case.flip, context=16, truncate=True, memory_gb=0.0)
    stream = batches(data, dataset, tokenizer, 0)
    steps = epochs * len(files) // batch
    some = (files * epochs)[: steps * batch]
    with ThreadPoolExecutor(cores) as pool:

        def ours() -> None:
            for _ in range(steps):
                next(stream)
            settle()  # what it reads ahead is its own work, and must not run in the other's turn

        def theirs(alone) -> Callable[[], None]:
            def piece(start: int) -> None:
                for file in some[start : start + 16]:
                    alone(file, case.size)

            return lambda: [*pool.map(piece, range(0, len(some), 16))]

        others = {"simplejpeg": theirs(by_simplejpeg), "Pillow": theirs(by_pillow)}
        sides = {"ours": ours, **others}
        for work in sides.values():
            work()
        turns = [{name: seconds(work) for name, work in sides.items()} for _ in range(rounds)]
    stream.close()
    rate = lambda side: len(some) / statistics.median(turn[side][0] for turn in turns)
    print(f"{case.name}: {rate('ours'):,.0f} pictures/s", flush=True)
    for other in others:
        wall, cpu = (statistics.median(turn[other][kind] / turn["ours"][kind] for turn in turns) for kind in (0, 1))
        print(f"    {other} alone {rate(other):,.0f}; share {wall:.2f} by the clock, {cpu:.2f} by CPU time", flush=True)


def main(pictures: int, batch: int, rounds: int, cores: int, epochs: int) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    keep_memory()  # as the training loop does; it helps both sides
    rng = np.random.default_rng(0)
    files = [picture(rng, WIDTHS[i % len(WIDTHS)]) for i in range(pictures)]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        source.mkdir()
        for number, file in enumerate(files):
            (source / f"{number:06d}.jpg").write_bytes(file)
            (source / f"{number:06d}.txt").write_text("a smooth picture of nothing\nnothing at all, with grain\n")
        build(source, Path(folder) / "jpegs")
        dataset = load_dataset(Path(folder) / "jpegs")
        tokenizer = Tokenizer.train([c for row in dataset.captions for c in row], vocab=300)
        print(f"{pictures} JPEGs {SIDE} high and {'/'.join(map(str, WIDTHS))} wide, {np.mean([*map(len, files)]) / 1e3:.1f} kB "
              f"each; batches of {batch}, {cores} cores, Pillow {PIL.__version__}")  # fmt: skip
        for case in CASES:
            measure(case, dataset, files, tokenizer, batch, rounds, cores, epochs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=8, help="a round; short ones measure how both sides end it")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    main(**vars(parser.parse_args()))
