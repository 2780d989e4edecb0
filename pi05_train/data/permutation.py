"""Keyed permutations of any size in constant memory, and the hash that makes every key of the data plane.

Written out here, rather than taken from a library's random generator, because the order of the data must be the same
under every version of every library.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
_SMALLEST_HALF_BITS = 3
"""Below this the rounds have too few bits to mix; cycle walking brings larger domains back to small sizes."""


def digest(*parts: int | str, size: int = 16) -> bytes:
    """`size` bytes that depend on every part, on its type and on the order."""
    text = "".join(f"{type(part).__name__} {len(str(part))} {part};" for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def permute(positions: NDArray[np.int64], size: int, *key: int | str) -> NDArray[np.int64]:
    """Where the permutation of `range(size)` that belongs to `key` sends each of `positions`."""
    count, keys = len(positions), round_keys(*key)
    half = _half_bits(np.array([size], np.uint64))
    domain = 1 << 2 * int(half[0])
    if domain > 16 * count:
        return permute_each(positions, np.broadcast_to(np.int64(size), count), np.broadcast_to(keys, (count, ROUNDS)))
    # Most of the domain is asked for: computing all of it at once makes the walks look-ups.
    table = _feistel(np.arange(domain, dtype=np.uint64), half, keys[:, np.newaxis]).astype(np.int64)
    assert ((positions >= 0) & (positions < size)).all()
    result = table[positions]
    while (outside := result >= size).any():
        result[outside] = table[result[outside]]
    return result


def round_keys(*key: int | str) -> NDArray[np.uint64]:
    """What `permute_each` needs of a key."""
    return np.frombuffer(digest("permutation", *key, size=8 * ROUNDS), "<u8").astype(np.uint64)


def permute_each(
    positions_N: NDArray[np.int64], sizes_N: NDArray[np.int64], keys_N8: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Each position under a permutation of its own: of `range(size)`, with keys from `round_keys`.

    A Feistel network on the smallest even number of bits that holds the size; results outside the range walk on along
    their cycle until they fall inside, which keeps the map one to one.
    """
    assert ((positions_N >= 0) & (positions_N < sizes_N)).all()
    result, sizes = positions_N.astype(np.uint64), sizes_N.astype(np.uint64)
    half = _half_bits(sizes)
    pending = np.arange(len(result))
    while len(pending):
        result[pending] = _feistel(result[pending], half[pending], keys_N8[pending].T)
        pending = pending[result[pending] >= sizes[pending]]
    return result.astype(np.int64)


def _half_bits(sizes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return np.maximum(_SMALLEST_HALF_BITS, (_bit_length(sizes - np.uint64(1)) + 1) // 2).astype(np.uint64)


def _bit_length(x: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Bits of each number; in halves, since a 64-bit number is more than a double holds."""
    high, low = (np.frexp(part.astype(np.float64))[1] for part in (x >> np.uint64(32), x & np.uint64(2**32 - 1)))
    return np.where(high > 0, high + 32, low).astype(np.int64)


def _feistel(x: NDArray[np.uint64], half: NDArray[np.uint64], keys_8N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = x >> half, x & mask
    for key in keys_8N:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64-bit words in which every input bit reaches every output bit (the finaliser of SplitMix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
