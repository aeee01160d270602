"""Pictures with their captions on one sheet.

    sheet(images, captions, "samples/001000.png")

Several pictures a caption stand side by side over it. Small pictures are enlarged by a whole factor, so that every
pixel stays what it is.
"""

import math
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP, _LEAST, _FONT, _LINES = 6, 96, 11, 3
_INK, _PAPER = (32, 32, 32), (255, 255, 255)


def sheet(images: np.ndarray, captions: list[str], path: str | Path, columns: int | None = None) -> None:
    """Write a PNG (or what the path's ending says).

    ``images``: uint8 or floats in [-1, 1], [n, h, w, 3], n = k × the number of captions; caption i has the pictures
    i, i + len(captions), …. ``columns``: captions a row (a little wider than high unless given). Raises ValueError
    where the numbers don't fit.
    """
    pixels = as_pixels(images)
    n, h, w, _ = pixels.shape
    if not captions or n % len(captions):
        raise ValueError(f"{n} pictures for {len(captions)} captions: give a whole number of pictures a caption")
    each, scale = n // len(captions), max(1, -(-_LEAST // min(h, w)))
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    h, w = h * scale, w * scale
    columns = columns or max(1, round(math.sqrt(2 * len(captions) / each)))
    rows = -(-len(captions) // columns)
    font = ImageFont.load_default(_FONT)
    cell_w = each * (w + 2) - 2
    cell_h = h + _LINES * (_FONT + 3)
    canvas = Image.new("RGB", (columns * (cell_w + _GAP) + _GAP, rows * (cell_h + _GAP) + _GAP), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for i, caption in enumerate(captions):
        x = _GAP + i % columns * (cell_w + _GAP)
        y = _GAP + i // columns * (cell_h + _GAP)
        for k in range(each):
            canvas.paste(Image.fromarray(pixels[i + k * len(captions)]), (x + k * (w + 2), y))
        lines = textwrap.wrap(caption, max(8, int(cell_w / (0.55 * _FONT))))[:_LINES]
        draw.multiline_text((x, y + h + 2), "\n".join(lines), fill=_INK, font=font, spacing=2)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path)


def as_pixels(images: np.ndarray) -> np.ndarray:
    """uint8 as it is; floats in [-1, 1] to uint8, rounded and clipped; anything not finite is black."""
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    finite = np.nan_to_num(images.astype(np.float32), nan=-1.0)
    return np.clip(np.round((finite + 1.0) * 127.5), 0, 255).astype(np.uint8)
