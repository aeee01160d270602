"""CRC-32C (Castagnoli) of bytes, with NumPy alone: what TFRecord files are checked by.

    crc32c(b"123456789") == 0xE3069283

The checksum is linear over GF(2). So the input, with zeros before it, is cut into rows of 256 bytes; all rows advance
together, four bytes by two table lookups; then neighbours are joined pairwise: the left one is advanced over as many
zeros as the right one is long. That operator is a 32 × 32 matrix of bits, squared for each doubling (as zlib's
crc32_combine does it). The start value, all ones, is advanced over the whole length on its own.
"""

from functools import cache

import numpy as np

_POLYNOMIAL = np.uint32(0x82F63B78)
_ONES = np.uint32(0xFFFFFFFF)
_WIDTH, _SHORT = 256, 16
_HALF = np.uint32(16)


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """What 16 bits turn into after 2 and after 4 bytes."""
    value = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        value = (value >> np.uint32(1)) ^ np.where(value & np.uint32(1), _POLYNOMIAL, np.uint32(0))
    return value, value[value & np.uint32(0xFFFF)] ^ (value >> _HALF)


def _apply(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """The product of a matrix, given by the images of the 32 bits, with each vector of bits."""
    bits = (vectors[:, None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
    return np.bitwise_xor.reduce(bits * matrix, axis=1)


@cache
def _over_zeros(doublings: int) -> np.ndarray:
    """The operator that advances a checksum over 2 ** doublings zero bytes."""
    if doublings:
        half = _over_zeros(doublings - 1)
        return _apply(half, half)
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(8):
        bits = (bits >> np.uint32(1)) ^ np.where(bits & np.uint32(1), _POLYNOMIAL, np.uint32(0))
    return bits


def crc32c(data: bytes) -> int:
    """The checksum of ``data``."""
    if len(data) <= _SHORT:
        value = int(_ONES)
        for byte in data:
            value ^= byte
            for _ in range(8):
                value = value >> 1 ^ (int(_POLYNOMIAL) if value & 1 else 0)
        return value ^ int(_ONES)
    after_two, after_four = _tables()
    rows = -(-len(data) // _WIDTH)
    padded = np.zeros(rows * _WIDTH, np.uint8)
    padded[len(padded) - len(data) :] = np.frombuffer(data, np.uint8)
    words = np.ascontiguousarray(padded.view("<u4").reshape(rows, _WIDTH // 4).T)
    states = np.zeros(rows, np.uint32)
    for word in words:
        states ^= word
        states = after_four[states & np.uint32(0xFFFF)] ^ after_two[states >> _HALF]
    doublings = _WIDTH.bit_length() - 1
    while len(states) > 1:
        if len(states) % 2:
            states = np.concatenate([np.zeros(1, np.uint32), states])
        states = _apply(_over_zeros(doublings), states[0::2]) ^ states[1::2]
        doublings += 1
    start = np.array([_ONES])
    for bit in range(len(data).bit_length()):
        if len(data) >> bit & 1:
            start = _apply(_over_zeros(bit), start)
    return int(np.bitwise_xor.reduce(states, initial=np.uint32(0)) ^ start[0] ^ _ONES)


def masked(data: bytes) -> int:
    """The checksum as TFRecord stores it: rotated and shifted, so that a record within a record is no trap."""
    value = crc32c(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
