"""Keyed permutations of any size in constant memory, and the hash that makes every key of the data plane.

Written out here, rather than taken from a library's random generator, because the order of the data must be the same
under every version of every library.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 8
_SMALLEST_HALF_BITS = 3
"""Below this the rounds have too few bits to mix; cycle walking brings larger domains back to small sizes."""


def digest(*parts: int | str, size: int = 16) -> bytes:
    """`size` bytes that depend on every part, on its type and on the order."""
    text = "".join(f"{type(part).__name__} {len(str(part))} {part};" for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def permute(positions: NDArray[np.int64], size: int, *key: int | str) -> NDArray[np.int64]:
    """Where the permutation of `range(size)` that belongs to `key` sends each of `positions`.

    A Feistel network on the smallest even number of bits that holds `size`; results outside the range walk on along
    their cycle until they fall inside, which keeps the map one to one.
    """
    assert size > 0
    half = max(_SMALLEST_HALF_BITS, ((size - 1).bit_length() + 1) // 2)
    keys = np.frombuffer(digest("permutation", *key, size=8 * _ROUNDS), "<u8")
    result = positions.astype(np.uint64)
    assert (result < size).all()
    pending = np.arange(len(result))
    while len(pending):
        result[pending] = _feistel(result[pending], np.uint64(half), keys)
        pending = pending[result[pending] >= size]
    return result.astype(np.int64)


def _feistel(x: NDArray[np.uint64], half: np.uint64, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = x >> half, x & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64-bit words in which every input bit reaches every output bit (the finaliser of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
