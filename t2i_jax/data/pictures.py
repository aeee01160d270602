"""Bytes of a picture to RGB pixels, on the CPU with Pillow, never trusting the file.

The header is read before anything is decoded: a PNG of 48 KB can decode to 1.2 GB. Palettes, grey, CMYK, 16-bit,
transparency (over white), animation (first frame) and EXIF rotation all end as the RGB picture that a viewer shows.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from t2i_jax.data.jpeg import quick_decode
from t2i_jax.data.resize import resize

MAX_PIXELS = 32_000_000
"""Decoding takes up to 8 bytes a pixel: a quarter of a gigabyte for the largest."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"))
_STRIP = 1 << 20
# What Pillow's decoders were seen to raise, or could, on bytes that are no picture
_ERRORS = (
    OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError, RuntimeError,
    AssertionError, MemoryError, struct.error, zlib.error,
)  # fmt: skip


class BadPicture(ValueError):
    """A picture that can't be used; ``reason`` is one of a few fixed phrases, fit for counting."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


def open_header(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture with only its header read: ``format``, ``size``, ``mode``. Raises BadPicture."""
    if not data:
        raise BadPicture("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadPicture("too many pixels", str(error)) from error
    except UnidentifiedImageError as error:
        raise BadPicture("not a picture") from error
    except _ERRORS as error:
        raise BadPicture("does not decode", str(error)) from error
    width, height = picture.size
    allowed = max_pixels * 2 // 5 if picture.format == "WEBP" else max_pixels  # whose decoder takes 20 bytes a pixel
    if width * height > allowed:
        raise BadPicture("too many pixels", f"{width}×{height} by its header, {allowed} are allowed")
    return picture


def decode(data: bytes, at_least: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The RGB picture that a viewer shows. Raises BadPicture.

    ``at_least``: this height and width are enough; a JPEG may then be decoded at 1/2, 1/4 or 1/8 of its size, which
    is several times faster.
    """
    return _decoded(open_header(data, max_pixels), at_least)


def _decoded(picture: Image.Image, at_least: tuple[int, int] | None = None) -> Image.Image:
    try:
        turned = orientation(picture) != 1
        if at_least and picture.format == "JPEG":
            picture.draft(None, (max(at_least),) * 2 if turned else at_least[::-1])
        if turned:
            ImageOps.exif_transpose(picture, in_place=True)  # not two of them
        if picture.mode.startswith("I;16") or picture.mode == "I":
            return _by_strips(picture, _upper_bytes)
        if picture.has_transparency_data:
            return _by_strips(picture, _over_white)
        picture.load()
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    except _ERRORS as error:
        raise BadPicture("does not decode", str(error)) from error


def _by_strips(picture: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The whole picture converted to RGB a few rows at a time, which needs no second and third copy of it."""
    width, height = picture.size
    out, rows = Image.new("RGB", picture.size), max(1, _STRIP // width)
    for top in range(0, height, rows):
        out.paste(convert(picture.crop((0, top, width, min(top + rows, height)))), (0, top))
    return out


def _upper_bytes(part: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(part) >> 8).astype(np.uint8)).convert("RGB")


def _over_white(part: Image.Image) -> Image.Image:
    part = part.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", part.size, "white"), part).convert("RGB")


def is_plain(header: Image.Image) -> bool:
    """Whether every decoder reads the picture alike: PNG or JPEG in grey, palette or RGB of 8 bits, not transparent,
    not rotated by EXIF, not animated."""
    return (
        header.format in ("PNG", "JPEG")
        and header.mode in ("1", "L", "P", "RGB")
        and not header.has_transparency_data
        and orientation(header) == 1
        and getattr(header, "n_frames", 1) == 1
    )


def orientation(header: Image.Image) -> int:
    """EXIF's number of how the picture is to be turned; 1, as it stands, where it says nothing that can be read."""
    try:
        return header.getexif().get(0x0112, 1) if "exif" in header.info else 1
    except _ERRORS:  # broken EXIF, which viewers pass over as well
        return 1


def fit(picture: Image.Image | np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The largest part of the shape's aspect ratio, from the centre, at that height and width, antialiased: uint8
    [h, w, 3]. Of an array it may be a view."""
    height, width = picture.shape[:2] if isinstance(picture, np.ndarray) else picture.size[::-1]
    h, w = shape
    if width * h <= height * w:
        across, down = width, width * h / w
    else:
        across, down = height * w / h, height
    left, top = (width - across) / 2, (height - down) / 2
    if (down, across) == (h, w):
        rows, columns = slice(int(top), int(top) + h), slice(int(left), int(left) + w)
        return np.asarray(picture)[rows, columns]
    return resize(picture, (left, top, across, down), shape)


def pixels(data: bytes, shape: tuple[int, int], out: np.ndarray | None = None) -> np.ndarray:
    """Decode, cut to the shape's aspect ratio, resize: uint8 [h, w, 3], into ``out`` if given. Raises BadPicture."""
    quick = quick_decode(data, shape, MAX_PIXELS, out)
    found = fit(decode(data, at_least=shape) if quick is None else quick, shape)
    if out is None:
        return np.array(found)
    if np.may_share_memory(found, out):  # decoded into it
        return out
    if out.strides[1] > 0:
        out[...] = found
    else:  # mirrored: channel by channel is five times as fast as pixel by pixel
        for channel in range(3):
            out[..., channel] = found[..., channel]
    return out


def canonical(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[bytes, tuple[int, int]]:
    """Bytes that every decoder reads alike, and (height, width). Raises BadPicture.

    A plain picture stays byte for byte; all else becomes PNG.
    """
    data, picture = standard(data, max_pixels)
    return data, (picture.height, picture.width)


def standard(
    data: bytes, max_pixels: int = MAX_PIXELS, check: Callable[[int, int], None] = lambda width, height: None
) -> tuple[bytes, Image.Image]:
    """The bytes of ``canonical``, and the picture itself, decoded. Raises BadPicture, and before anything is decoded
    what ``check(width, height)`` raises."""
    header = open_header(data, max_pixels)
    check(*header.size)
    plain, picture = is_plain(header), _decoded(header)
    del header  # its pixels, where they are not the picture's
    if plain:
        return data, picture
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return out.getvalue(), picture
