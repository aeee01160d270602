"""JPEG to RGB by simplejpeg, which is libjpeg-turbo without detours: half of Pillow's time, and the same pixels.

Both run libjpeg-turbo's exact integer transform and smooth upsampling, which give the same bytes in every version of
it. Where simplejpeg is not installed, and for every file that needs a second look (CMYK, EXIF, damage), Pillow decodes.
"""

import threading

import numpy as np

try:
    import simplejpeg
except ImportError:  # platforms without a wheel: slower, the same pixels
    simplejpeg = None

_SCALES = (8, 4, 2, 1)
_START, _SCAN = b"\xff\xd8\xff", 0xDA
_ASIDE = (b"Exif", b"MPF")
"""Beginnings of segments that may rotate the picture or add others to it."""
_PLAIN = ("Gray", "YCbCr")
_scratch = threading.local()


def quick_decode(
    data: bytes, at_least: tuple[int, int], max_pixels: int, out: np.ndarray | None = None
) -> np.ndarray | None:
    """uint8 [h, w, 3] of a plain JPEG; None for everything else, which is for Pillow to judge.

    Decoded at 1/2, 1/4 or 1/8 of its size where height and width stay ``at_least`` that. The array belongs to the
    thread and is written over by its next call; it is ``out`` itself, written at once, where that has the very shape.
    """
    if simplejpeg is None or not data.startswith(_START) or not _is_simple(data):
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space not in _PLAIN or height * width > max_pixels:
            return None
        room = min(height // at_least[0], width // at_least[1]) if min(height, width) >= 16 else 1
        scale = next((scale for scale in _SCALES if scale <= room), 1)
        least = {"min_height": -(-height // scale), "min_width": -(-width // scale)} if scale > 1 else {}
        exact = out is not None and out.shape == (-(-height // scale), -(-width // scale), 3) and out.flags.c_contiguous
        return simplejpeg.decode_jpeg(data, buffer=out if exact else _buffer(height * width * 3), **least)
    except ValueError:
        return None


def _is_simple(data: bytes) -> bool:
    """Whether the segments before the picture follow each other as they should, and none needs a second look."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        if data[place + 1] == _SCAN:
            return True
        if data.startswith(_ASIDE, place + 4):
            return False
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return False


def _buffer(size: int) -> bytearray:
    """Memory of this thread, kept from picture to picture: new pages would cost a third of the decoding."""
    if len(getattr(_scratch, "buffer", b"")) < size:
        _scratch.buffer = bytearray(size)
    return _scratch.buffer
