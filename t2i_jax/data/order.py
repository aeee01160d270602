"""Which examples a step reads, and every random choice about them, as pure functions of small integers.

    order(seed, step, batch, size)      global indices of a step: every example exactly once an epoch
    bits(seed, purpose, epoch, index)   64 random bits that belong to one visit of one example

An epoch's permutation is a Feistel network on pairs (l, r) in Z_a x Z_b with a*b >= size, taken again for the few
values that fall outside (cycle walking): "Ciphers with Arbitrary Finite Domains", Black and Rogaway 2002, method 3
with additions modulo a and b. So the state is the step number, a jump costs nothing, and memory is O(batch). The round
function is the finaliser of SplitMix64 (Steele, Lea and Flood 2014).
"""

import math

import numpy as np

_ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


def _absorb(state: np.ndarray, word: np.ndarray) -> np.ndarray:
    return _mix((state ^ word) + _GOLDEN)


def _hash(*words: int | np.ndarray) -> np.ndarray:
    """64 bits of the words, which broadcast; negative ones count modulo 2^64."""
    state = np.zeros((1,), np.uint64)
    for word in words:
        word = np.asarray(word)
        word = word.astype(np.uint64) if word.dtype != object else np.asarray(word % 2**64, np.uint64)
        state = _absorb(state, word)
    return state


def _permute(value: np.ndarray, key: np.ndarray, size: int) -> np.ndarray:
    """The image of each value (uint64, below size) under the permutation of its key."""
    a = max(1, math.isqrt(size - 1) + 1)
    a, b = np.uint64(a), np.uint64(-(-size // a))

    keys = _hash(key, np.arange(_ROUNDS)[:, None])  # of the rounds

    def once(x: np.ndarray, keys: np.ndarray) -> np.ndarray:
        left, right = x // b, x % b
        for step in range(0, _ROUNDS, 2):
            left = (left + _absorb(keys[step], right) % a) % a
            right = (right + _absorb(keys[step + 1], left) % b) % b
        return left * b + right

    value = once(value, keys)
    while (outside := np.flatnonzero(value >= size)).size:
        value[outside] = once(value[outside], keys[:, outside])
    return value


def order(seed: int, step: int, batch: int, size: int) -> np.ndarray:
    """The global indices of one step, int64 [batch], each in 0 ... size - 1.

    Step s takes the positions s*batch ... s*batch + batch - 1 of the endless row of epochs; an epoch is a permutation
    of all examples that depends on the seed and its number, so that epochs follow each other without a gap or a
    short batch. Raises ValueError for an empty data set or batch.
    """
    return visits(seed, step, batch, size)[1]


def visits(seed: int, step: int, batch: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """``order`` together with the epoch of each example: two int64 [batch]. (epoch, index) names a visit."""
    if size < 1 or batch < 1 or step < 0:
        raise ValueError(f"order needs size >= 1, batch >= 1 and step >= 0; got {size}, {batch}, {step}")
    return at(seed, np.arange(batch, dtype=np.int64) + step * batch, size)


def at(seed: int, position: np.ndarray, size: int, row: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Epoch and index of the examples at any positions, int64 [n], of an endless row of epochs of ``size`` examples.

    ``row`` (0, 1, ...) tells rows apart that one seed orders: each has permutations of its own.
    """
    epoch, offset = divmod(position, size)
    index = _permute(offset.astype(np.uint64), _hash(seed, -row, epoch), size)
    return epoch, index.astype(np.int64)


def bits(seed: int, purpose: int, epoch: np.ndarray, index: np.ndarray) -> np.ndarray:
    """64 random bits for each visit, uint64 [batch]; another ``purpose`` (1, 2, ...) gives independent ones.

    They belong to (seed, epoch, index): neither the batch size nor the number of processes changes them.
    """
    return _hash(seed, purpose, epoch, index)


def uniform(seed: int, purpose: int, epoch: np.ndarray, index: np.ndarray) -> np.ndarray:
    """``bits`` as numbers in [0, 1), float64 [batch]."""
    return (bits(seed, purpose, epoch, index) >> np.uint64(11)).astype(np.float64) * 2.0**-53
