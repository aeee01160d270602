"""The members of a tar file, read in one pass, never extracted: USTAR with the PAX and GNU extensions for long names.

    for member in members(file, most=64 << 20):     # Member(name, data, where) or BadPicture
        ...

tarfile of the standard library reads an extended header whole, however large it says to be; here every size is capped
before anything is read. Links, devices and sparse files are told and not followed. A header whose checksum is wrong is
told once, and reading goes on at the next header. POSIX.1-1988 (USTAR), POSIX.1-2001 (PAX).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from t2i_jax.data.pictures import BadPicture
from t2i_jax.data.sources.raw import is_unsafe

_BLOCK = 512
_LONGEST_HEADER = 1 << 20
_STEP = 1 << 20
_FILES, _FOLDER, _LINKS, _PAX, _GLOBAL, _GNU_NAME, _GNU_LINK = b"0\0007", b"5", b"12", b"x", b"g", b"L", b"K"


@dataclass(frozen=True)
class Member:
    """A file in the tar."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Bad:
    """A member that is not read, and why; ``name`` may be empty."""

    name: str
    error: BadPicture


def members(file, wanted: Callable[[str], int]) -> Iterator[Member | Bad]:
    """The regular files of a tar for which ``wanted(name)`` gives a positive number: the most bytes they may have.
    ``file``: anything with a read()."""
    name, size_again, offset = "", None, 0
    lost = False  # looking for the next header
    while True:
        block = file.read(_BLOCK)
        if not block.strip(b"\0"):
            if block and not offset:
                yield Bad("", BadPicture("broken tar", "it begins with zeros"))
            elif len(block) < _BLOCK and lost:
                return
            elif len(block) < _BLOCK:
                yield Bad("", BadPicture("truncated tar", f"no end mark at byte {offset}"))
            elif lost:  # zeros of a picture
                offset += _BLOCK
                continue
            return
        if len(block) < _BLOCK:
            if not lost:
                yield Bad("", BadPicture("truncated tar", f"half a header at byte {offset}"))
            return
        offset += _BLOCK
        header = _header(block)
        if header is None:
            if not lost:
                yield Bad("", BadPicture("broken tar", f"no header at byte {offset - _BLOCK}"))
            lost, name, size_again = True, "", None
            continue
        lost = False
        kind, plain, size = header
        size = size if size_again is None else size_again
        padded = -(-size // _BLOCK) * _BLOCK
        if kind in (_PAX, _GNU_NAME):
            data = file.read(min(padded, _LONGEST_HEADER))
            whole = len(data) == padded
            if not whole and padded > _LONGEST_HEADER:
                yield Bad("", BadPicture("absurd tar header", f"{size} bytes at byte {offset}"))
                whole = _skip(file, padded - len(data))
            elif kind == _GNU_NAME:
                name = data[:size].split(b"\0")[0].decode("utf-8", "replace")
            else:
                name, size_again = _pax(data[:size], name)
            if not whole:
                yield Bad("", BadPicture("truncated tar", f"within a header at byte {offset}"))
                return
            offset += padded
            continue
        here, name, size_again = name or plain, "", None
        data, fault = b"", None
        if kind in _LINKS:
            fault = BadPicture("link in tar", repr(here[:200]))
        elif kind not in (_FOLDER, _GLOBAL, _GNU_LINK) and kind not in _FILES:
            fault = BadPicture("special file in tar", repr(here[:200]))
        elif kind in _FILES and is_unsafe(here):
            fault = BadPicture("unsafe name", repr(here[:200]))
        most = wanted(here) if kind in _FILES and not fault else 0
        if most and size > most:
            fault = BadPicture("too many bytes", f"{here[:200]!r} has {size}, {most} are allowed")
        if most and not fault:
            data = file.read(size)
            whole = len(data) == size and _skip(file, padded - size)
        else:
            whole = _skip(file, padded)
        if not whole:
            yield Bad(here, BadPicture("truncated tar", f"within {here[:200]!r} at byte {offset}"))
            return
        offset += padded
        if fault:
            yield Bad(here, fault)
        elif most:
            yield Member(here, data)


def _header(block: bytes) -> tuple[bytes, str, int] | None:
    """Kind, name and size of a header; None where its checksum is wrong."""
    stored = _number(block[148:156])
    if stored is None or stored != sum(block[:148]) + sum(block[156:]) + 8 * 32:
        return None
    size = _number(block[124:136])
    if size is None or size < 0:
        return None
    name = block[:100].split(b"\0")[0]
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0")[0]):
        name = prefix + b"/" + name
    kind = block[156:157]
    # before USTAR a folder was a file whose name ends in a slash
    kind = _FOLDER if kind == b"\0" and name.endswith(b"/") else kind
    return kind, name.decode("utf-8", "replace"), 0 if kind in _LINKS + _FOLDER else size


def _number(field: bytes) -> int | None:
    if field[0] & 0x80:  # GNU: base 256
        return int.from_bytes(field) - (0x80 << 8 * (len(field) - 1)) if field[0] == 0x80 else None
    digits = field.strip(b" \0")
    return int(digits, 8) if re.fullmatch(rb"[0-7]*", digits) and digits else (0 if not digits else None)


def _pax(data: bytes, name: str) -> tuple[str, int | None]:
    """``path`` and ``size`` of an extended header; lines that make no sense are left out."""
    size = None
    while match := re.match(rb"(\d{1,7}) ", data):
        length = int(match[1])
        line, data = data[match.end() : length - 1], data[max(length, 1) :]
        key, _, value = line.partition(b"=")
        if key == b"path":
            name = value.decode("utf-8", "replace")
        elif key == b"size" and re.fullmatch(rb"\d{1,15}", value):
            size = int(value)
    return name, size


def _skip(file, count: int) -> bool:
    """Read past ``count`` bytes; whether they were there. Reading, because seeking past the end does not fail."""
    while count:
        data = file.read(min(count, _STEP))
        if not data:
            return False
        count -= len(data)
    return True
