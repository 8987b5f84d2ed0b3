# SPDX-License-Identifier: GPL-2.0-or-later
"""XXH3-64 of many short rows at once, where a call for each would be most of the time."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

# from the description of XXH3: a prime, the multiplier of its last step, its default secret
_PRIME: Final = 0x9E3779B185EBCA87
_LAST: Final = np.uint64(0x165667919E3779F9)
_SECRET: Final = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
        "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    ),
    "<u8",
)
_LOW: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)


def checksums(words: U64) -> U64:
    """XXH3-64 with seed 0 of each row of 40 to 64 bytes: shape (n, 5) to (n, 8) -> (n,)."""
    size = words.shape[1]
    if not 5 <= size <= 8:  # the description has another formula for each range of sizes
        raise ValueError(f"rows of {8 * size} bytes")
    total = np.full(len(words), 8 * size * _PRIME & 0xFFFFFFFFFFFFFFFF, np.uint64)
    for secret, first in enumerate((0, size - 2, 2, size - 4)):
        low = words[:, first] ^ _SECRET[2 * secret]
        high = words[:, first + 1] ^ _SECRET[2 * secret + 1]
        total += _folded(low, high)
    total ^= total >> np.uint64(37)
    total *= _LAST
    total ^= total >> _HALF
    return total


def _folded(a: U64, b: U64) -> U64:
    """The halves of the products of 128 bits, one xored with the other."""
    a_low, a_high, b_low, b_high = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    crossed = a_high * b_low
    middle = (a_low * b_low >> _HALF) + (crossed & _LOW) + a_low * b_high
    folded: U64 = (crossed >> _HALF) + (middle >> _HALF) + a_high * b_high
    folded ^= a * b
    return folded
