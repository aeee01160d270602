"""Bad inputs, drawn from a seed: damaged pictures, bombs, absurd captions; damaged tars, tables, records and lines."""

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from t2i_jax.data.form import serialize
from tests.data.conftest import picture
from tests.data.test_sources import tfrecord_of

KINDS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
SIDE, WEBP_SIDE = 5600, 3570  # just within the limits of pixels


def mutate(rng: np.random.Generator, data: bytes) -> bytes:
    """Flip, cut, zero, repeat or insert a little."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        at, length = int(rng.integers(0, max(1, len(out)))), int(rng.integers(1, 64))
        match rng.choice(["flip", "byte", "zero", "cut", "repeat", "insert", "huge"]):
            case "flip" if out:
                out[at] ^= 1 << int(rng.integers(8))
            case "byte" if out:
                out[at] = int(rng.integers(256))
            case "zero":
                out[at : at + length] = bytes(min(length, len(out) - at))
            case "cut":
                del out[at:]
            case "repeat":
                out[at:at] = out[at : at + length]
            case "insert":
                out[at:at] = rng.bytes(length)
            case "huge":  # a length or a number of pixels, if it hits one
                out[at : at + 4] = b"\xff\xff\xff\xff"
    return bytes(out)


def whole_picture(rng: np.random.Generator) -> bytes:
    kind = str(rng.choice(KINDS))
    image = Image.open(io.BytesIO(picture(int(rng.integers(1000)), (int(rng.integers(8, 90)), 40))))
    modes = {"JPEG": ["RGB", "L", "CMYK"], "GIF": ["P", "L"], "WEBP": ["RGB", "RGBA"], "BMP": ["RGB", "L"]}
    image = image.convert(str(rng.choice(modes.get(kind, ["RGB", "RGBA", "P", "L", "LA", "1"]))))
    options = {"progressive": bool(rng.integers(2))} if kind == "JPEG" else {}
    if kind in ("JPEG", "WEBP", "PNG") and rng.integers(2):
        exif = Image.Exif()
        exif[0x0112] = int(rng.integers(1, 9))
        options["exif"] = exif
    if kind in ("GIF", "WEBP", "PNG", "TIFF") and rng.integers(3) == 0:
        options |= {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(width: int, height: int, extra: bytes = b"", depth: int = 1, colour: int = 0, rows: int | None = None) -> bytes:
    """A PNG whose pixels are all 0, with so many rows, or all; ``extra`` chunks before them."""
    row = bytes((width * depth * (4 if colour == 6 else 1) + 7) // 8 + 1) if rows != 0 else b""
    packer = zlib.compressobj(6)
    data = b"".join(packer.compress(row) for _ in range(height if rows is None else rows)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)) + (
        extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )  # fmt: skip


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bombs() -> dict[str, tuple[bytes, str]]:
    """Small files that would decode to gigabytes, or claim to; and the reason that each is counted under."""
    text = chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(50_000_000), 6))
    gif = bytearray(picture(1, kind="GIF"))
    gif[6:10] = b"\xff\xff\xff\xff"
    jpeg = picture(1, (64, 64), "JPEG")
    frame = jpeg.index(b"\xff\xc0") + 5
    return {
        "wide": (png(20_000, 20_000), "too many pixels"),
        "most": (png(2**31 - 1, 2**31 - 1, rows=0), "too many pixels"),
        "text": (png(8, 8, text), "does not decode"),
        "gif": (bytes(gif), "too many pixels"),
        "jpeg": (jpeg[:frame] + b"\xff\xff\xff\xff" + jpeg[frame + 4 :], "too many pixels"),
        "empty": (b"", "empty file"),
        "rubbish": (b"no picture at all", "not a picture"),
        "web": (b"<html><body>404 Not Found</body></html>", "not a picture"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        "pdf": (b"%PDF-1.7\n", "not a picture"),
    }


def captions() -> dict[str, tuple[bytes, str]]:
    """Captions that are none."""
    return {
        "latin": ("café".encode("latin-1"), "caption is not UTF-8"),
        "utf16": ("a caption".encode("utf-16"), "caption is not UTF-8"),
        "blank": (b" \n\xe2\x80\x8b\n", "empty caption"),
        "book": (b"x" * 900_000, "caption too long"),
        "library": (b"x" * 2_000_000, "too many bytes"),
        "control": (b"\0\1\2\3\4\5\6 abc", "caption is no text"),
        "lines": (b"x\n" * 50_000, "too many captions"),
    }


def giants() -> dict[str, bytes]:
    """Pictures just within the limit of pixels, of the kinds that need most memory."""
    side = (SIDE, SIDE)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = {
        "rgba.png": (Image.new("RGBA", side, (9, 9, 9, 99)), {}),
        "deep.png": (Image.new("I;16", side, 999), {}),
        "palette.gif": (Image.new("P", side), {"transparency": 0}),
        "cmyk.jpg": (Image.new("CMYK", side, (9, 9, 9, 9)), {}),
        "turned.jpg": (Image.new("RGB", side, "red"), {"exif": exif}),
        "alpha.webp": (Image.new("RGBA", (WEBP_SIDE, WEBP_SIDE), (9, 9, 9, 99)), {"quality": 1, "method": 0}),
        "plain.tif": (Image.new("RGB", side, "red"), {"compression": "tiff_deflate"}),
    }
    out = {}
    for name, (image, options) in made.items():
        file = io.BytesIO()
        image.save(file, {"jpg": "JPEG", "tif": "TIFF"}.get(name[-3:], name.split(".")[1].upper()), **options)
        out[name] = file.getvalue()
    return out


def tar(rng: np.random.Generator) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=int(rng.integers(3))) as file:
        for i in range(3):
            folder = "long/" * int(rng.integers(40))
            for kind, data in (("jpg", picture(i, kind="JPEG")), ("txt", b"a thing"), ("json", b'{"url": "u"}')):
                info = tarfile.TarInfo(f"{folder}{i}.{kind}")
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    return out.getvalue()


def table(rng: np.random.Generator) -> bytes:
    rows = [{"image": picture(i), "caption": "a thing", "score": 0.5, "tags": ["a", "b"]} for i in range(4)]
    out = io.BytesIO()
    codec = str(rng.choice(["snappy", "zstd", "gzip", "none"]))
    pq.write_table(pa.Table.from_pylist(rows), out, compression=codec, row_group_size=int(rng.integers(1, 5)))
    return out.getvalue()


def write_pictures(folder: Path, rng: np.random.Generator, count: int) -> list[str]:
    """Damaged pictures with sound captions; their names."""
    folder.mkdir(parents=True)
    names = [f"{i:05d}.png" for i in range(count)]  # an ending says nothing
    for name in names:
        (folder / name).write_bytes(mutate(rng, whole_picture(rng)))
        (folder / name).with_suffix(".txt").write_text(f"thing {name}")
    return names


def write_others(home: Path, rng: np.random.Generator, count: int) -> None:
    """As many damaged tars, tables, files of records and of lines, each with a few pictures."""
    for kind in ("tars", "tables", "records"):
        (home / kind).mkdir()
    for i in range(count):
        (home / "tars" / f"{i:05d}.tar").write_bytes(mutate(rng, tar(rng)))
        (home / "tables" / f"{i:05d}.parquet").write_bytes(mutate(rng, table(rng)))
        path = tfrecord_of(home / "records" / f"{i:05d}.tfrecord", [
            mutate(rng, serialize({"image": picture(k), "caption": "a thing"})) if rng.integers(2)
            else serialize({"image": picture(k), "caption": "a thing"}) for k in range(3)
        ])  # fmt: skip
        path.write_bytes(mutate(rng, path.read_bytes()))
        folder = home / "lines" / f"{i:05d}"
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(picture(1))
        lines = [json.dumps({"file_name": "a.png", "text": "a thing"}).encode() for _ in range(3)]
        (folder / "metadata.jsonl").write_bytes(mutate(rng, b"\n".join(lines)))
