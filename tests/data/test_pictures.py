import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from t2i_jax.data.jpeg import quick_decode
from t2i_jax.data.pictures import BadPicture, canonical, decode, fit, is_plain, open_header, pixels
from tests.data.conftest import picture


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


RAMP = np.linspace(0, 255, 40).astype(np.uint8)[None, :].repeat(30, 0)
COLOURS = Image.fromarray(np.stack([RAMP, RAMP[:, ::-1], RAMP // 2], -1))


def huge_png(side: int = 20_000) -> bytes:
    """A whole PNG of side × side pixels in one bit each, a few kilobytes long."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF"])
def test_lossless_kinds_come_back_exactly(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decode(saved(COLOURS, kind, **options)), COLOURS)


def test_palette_grey_16_bit_and_cmyk_end_as_rgb():
    palette = COLOURS.quantize(64)
    np.testing.assert_array_equal(decode(saved(palette)), palette.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(decode(saved(Image.fromarray(RAMP))))[..., 1], RAMP)
    deep = Image.fromarray(RAMP.astype(np.uint16) * 256 + 17)
    np.testing.assert_array_equal(np.asarray(decode(saved(deep)))[..., 0], RAMP)
    cmyk = decode(saved(COLOURS.convert("CMYK"), "JPEG", quality=95))
    assert cmyk.mode == "RGB"
    assert np.abs(np.asarray(cmyk).astype(int) - np.asarray(COLOURS)).mean() < 6


def test_transparency_shows_white_behind():
    clear = COLOURS.copy()
    clear.putalpha(Image.fromarray(np.where(RAMP > 127, 255, 0).astype(np.uint8)))
    got = np.asarray(decode(saved(clear)))
    assert (got[:, :15] == 255).all()
    np.testing.assert_array_equal(got[:, 25:], np.asarray(COLOURS)[:, 25:])


def test_exif_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode(saved(COLOURS, "JPEG", exif=exif, quality=95))
    assert turned.size == (30, 40)
    upright = np.asarray(COLOURS.transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(np.asarray(turned) - upright).mean() < 6


def test_the_first_frame_of_an_animation_counts():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("data, reason", [
    (b"", "empty file"),
    (b"GIF89a", "not a picture"),
    (b"no picture at all", "not a picture"),
    (b"%PDF-1.4 and more", "not a picture"),
    (huge_png(), "too many pixels"),
    (huge_png(9_000), "too many pixels"),
    (saved(COLOURS)[:-70], "does not decode"),
    (picture(0, (90, 90), "JPEG")[:900], "does not decode"),
])  # fmt: skip
def test_bad_bytes_are_refused_by_reason(data, reason):
    with pytest.raises(BadPicture) as error:
        decode(data)
    assert error.value.reason == reason


def test_any_cut_or_flip_of_a_file_either_decodes_or_is_a_bad_picture():
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF"):
        whole = saved(COLOURS, kind)
        for _ in range(60):
            data = bytearray(whole[: rng.integers(1, len(whole) + 1)])
            for place in rng.integers(0, len(data), 3):
                data[place] = rng.integers(256)
            with contextlib.suppress(BadPicture):
                assert pixels(bytes(data), (16, 16)).shape == (16, 16, 3)


def test_fit_takes_the_middle_square_and_keeps_the_mean():
    middle = np.asarray(COLOURS)[:, 5:35]
    np.testing.assert_array_equal(fit(COLOURS, (30, 30)), middle)
    for size in (8, 15, 60):
        small = fit(COLOURS, (size, size))
        assert small.shape == (size, size, 3)
        np.testing.assert_allclose(small.mean((0, 1)), middle.mean((0, 1)), atol=1)


def test_a_jpeg_decoded_at_a_fraction_looks_like_the_whole_one_made_smaller():
    data = picture(3, (256, 256), "JPEG", quality=95)
    assert decode(data, at_least=(32, 32)).size == (32, 32)
    whole = fit(decode(data), (32, 32)).astype(int)
    assert np.abs(whole - pixels(data, (32, 32))).mean() < 3


def test_plain_files_keep_their_bytes_and_others_become_a_png_that_shows_the_same():
    for data in (saved(COLOURS), saved(COLOURS.quantize(32)), saved(COLOURS, "JPEG")):
        assert canonical(data) == (data, (30, 40))
    for data in (saved(COLOURS, "BMP"), saved(COLOURS.convert("CMYK"), "JPEG"), saved(COLOURS.convert("RGBA"), "WEBP")):
        new, size = canonical(data)
        assert size == (30, 40)
        assert is_plain(open_header(new))
        np.testing.assert_array_equal(decode(new), decode(data))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_the_quick_decoder_of_jpegs_gives_pillows_bytes_at_every_fraction(mode, subsampling):
    simplejpeg = pytest.importorskip("simplejpeg")
    assert simplejpeg
    for size in ((90, 61), (256, 256), (17, 140)):
        options = {} if mode == "L" else {"subsampling": subsampling}
        data = saved(Image.open(io.BytesIO(picture(3, size))).convert(mode), "JPEG", quality=90, **options)
        for shape in ((61, 90), (30, 30), (8, 11), (4, 4), (256, 256), (128, 128)):
            quick = quick_decode(data, shape, 10**6)
            np.testing.assert_array_equal(quick, np.asarray(decode(data, at_least=shape)))
            out = np.empty((*shape, 3), np.uint8)
            np.testing.assert_array_equal(pixels(data, shape, out), fit(decode(data, at_least=shape), shape))
            np.testing.assert_array_equal(pixels(data, shape, out[:, ::-1]), fit(decode(data, at_least=shape), shape))


def test_what_needs_a_second_look_is_left_to_pillow():
    pytest.importorskip("simplejpeg")
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = picture(0, (40, 20), "JPEG")
    assert quick_decode(plain, (8, 8), 10**6) is not None
    assert quick_decode(plain, (8, 8), 799) is None
    assert quick_decode(plain[:-60], (8, 8), 10**6) is None
    assert quick_decode(picture(0, (40, 20), "JPEG", exif=exif), (8, 8), 10**6) is None
    assert quick_decode(saved(COLOURS.convert("CMYK"), "JPEG"), (8, 8), 10**6) is None
    assert quick_decode(picture(0, (40, 20), "PNG"), (8, 8), 10**6) is None
    turned = pixels(picture(0, (40, 20), "JPEG", exif=exif), (40, 20))
    np.testing.assert_array_equal(turned, np.rot90(pixels(plain, (20, 40)), -1))


def test_a_picture_is_cut_from_its_centre_to_the_aspect_of_the_shape():
    wide = Image.fromarray(np.tile(np.arange(90, dtype=np.uint8)[None, :, None], (30, 1, 3)))
    np.testing.assert_array_equal(fit(wide, (30, 60))[0, :, 0], np.arange(15, 75))
    small = fit(wide, (10, 20))
    assert small.shape == (10, 20, 3)
    assert abs(small.mean() - 44.5) < 1
    assert fit(wide, (60, 20)).shape == (60, 20, 3)
