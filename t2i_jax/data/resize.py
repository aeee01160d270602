"""Part of a picture at another size: bicubic, antialiased, by cykooz-resizer, whose vector instructions take a quarter
of Pillow's time.

Both are the convolution with Keys' kernel (a = -1/2), widened where the picture shrinks, in fixed point. The one
goes down the columns first, the other mostly along the rows: they differ by two of 255 at most, but at sharp edges,
whose overshoot is clipped between the two passes. Where cykooz-resizer is not installed (it has no wheel for Linux on
ARM), Pillow resizes.
"""

import math
import threading
from functools import lru_cache
from importlib.metadata import version

import numpy as np
from PIL import Image

try:
    import cykooz_resizer
except ImportError:
    cykooz_resizer = None

Box = tuple[float | int, float | int, float | int, float | int]
_MUCH = 4.0
"""Where a picture shrinks by so much, Pillow averages whole pixels first (``reducing_gap``), and copies nothing."""
_own = threading.local()


def resizer() -> str:
    """Which library resizes, and its version: a part of what decides the pixels."""
    name = "pillow" if cykooz_resizer is None else "cykooz-resizer"
    return f"{name} {version(name)}"


def resize(picture: Image.Image | np.ndarray, box: Box, shape: tuple[int, int]) -> np.ndarray:
    """What lies in ``box`` (left, top, width, height, in pixels) of an RGB picture, as an array uint8 [H, W, 3], as
    uint8 [h, w, 3], h and w being the ``shape``. The kernel may see pixels beside the box."""
    left, top, across, down = box
    if cykooz_resizer is None or max(across / shape[1], down / shape[0]) >= _MUCH:
        whole = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
        corners = (left, top, left + across, top + down)
        return np.asarray(whole.resize(shape[::-1], Image.Resampling.BICUBIC, box=corners, reducing_gap=_MUCH / 2))
    picture = np.asarray(picture)
    window, options = _seen(picture.shape[:2], box, shape)
    return _by_cykooz(picture[window], options, shape)


@lru_cache(maxsize=256)
def _seen(size: tuple[int, int], box: Box, shape: tuple[int, int]) -> tuple:
    """The part of a picture that the kernel sees, and the library's options for the box in it."""
    left, top, across, down = box
    beside = [math.ceil(2 * max(1.0, scale)) for scale in (across / shape[1], down / shape[0])]
    x, y = max(0, math.floor(left) - beside[0]), max(0, math.floor(top) - beside[1])
    right = min(size[1], math.ceil(left + across) + beside[0])
    bottom = min(size[0], math.ceil(top + down) + beside[1])
    left, top = left - x, top - y
    inner = (left, top, min(across, right - x - left), min(down, bottom - y - top))  # rounding must not leave the part
    bicubic = cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.catmull_rom)
    options = cykooz_resizer.ResizeOptions(bicubic, crop_box=cykooz_resizer.CropBox(*inner))
    return (slice(y, bottom), slice(x, right)), options


def _by_cykooz(part: np.ndarray, options, shape: tuple[int, int]) -> np.ndarray:
    (height, width), (h, w) = part.shape[:2], shape
    rgb, resizer = cykooz_resizer.PixelType.U8x3, getattr(_own, "resizer", None)
    if resizer is None:  # a thread's own: two that share one wait for each other
        resizer = _own.resizer = cykooz_resizer.Resizer()
    small = cykooz_resizer.ImageData(w, h, rgb)
    resizer.resize(cykooz_resizer.ImageData(width, height, rgb, part.tobytes()), small, options)
    return np.frombuffer(small.get_buffer(), np.uint8).reshape(h, w, 3)
