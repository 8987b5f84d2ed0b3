# SPDX-License-Identifier: GPL-2.0-or-later
"""Two keys of a block: the hash that a pack's index is sorted by, and its identity.

The index hash is part of the pack format and is computed by the engine too. Each pack
has a seed for it that no guest knows, so that none can make blocks which fill one place
of an index. The identity (dedupe key) is the store's own: XXH3-128 of the guest bytes,
seeded with the other parts of the key. Whoever makes two blocks collide loses one of
them, which is a miss, so it need not resist an attacker.

A kernel that loads itself at a random address differs from boot to boot in 32-bit
immediates. The engine marks those that it translated without looking at their value
(engine/src/include/tcg/guest-imm.h has the rule); such a block is the same block
whatever they hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from sysqcache.formats import block as bf

if TYPE_CHECKING:
    from sysqcache.formats.blocktable import BlockTable, Mask

U64 = NDArray[np.uint64]

_MULTIPLIER: Final = 0x9E3779B97F4A7C15
_MASK: Final = 0xFFFFFFFFFFFFFFFF
IDENTITY: Final = np.dtype([("low", "<u8"), ("high", "<u8")])
"""One dedupe key, 16 bytes."""

Identities = NDArray[np.void]
"""An array of :data:`IDENTITY`."""


def _turned(seed: int) -> int:
    """``seed`` with its halves exchanged."""
    return (seed << 32 | seed >> 32) & _MASK


def _mix_all(x: U64) -> U64:
    x = x ^ (x >> np.uint64(32))
    x = x * np.uint64(_MULTIPLIER)
    mixed: U64 = x ^ (x >> np.uint64(29))
    return mixed


def long_keys(table: BlockTable) -> Mask:
    """Which blocks are indexed by eight guest bytes, the others by one: shape (n,)."""
    head = table.headers
    long: Mask = head["guest_size"] >= bf.PREFIX_BYTES
    long &= head["page_offset"] <= bf.PAGE_SIZE - bf.PREFIX_BYTES
    long &= head["block_flags"] & bf.BLOCK_SHORT_KEY == 0
    return long


def index_hashes(table: BlockTable, seed: int) -> U64:
    """The hash of every block under a pack's seed, shape (n,); docs/formats.md has it in words."""
    head, long = table.headers, long_keys(table)
    prefix = table.prefixes()
    p = np.where(long, prefix, prefix & np.uint64(0xFF))
    place = head["page_offset"].astype(np.uint64) | long.astype(np.uint64) << np.uint64(16)
    h = _mix_all(place ^ np.uint64(seed))
    h = _mix_all(h ^ p)
    h = _mix_all(h ^ np.uint64(_turned(seed)) ^ _flag_words(table))
    h = _mix_all(h ^ head["cs_base"])
    return _mix_all(h ^ np.uint64(seed))


def home_slots(hashes: U64, slot_count: int) -> NDArray[np.int64]:
    """Where a lookup of each hash begins; ``slot_count`` below 2^32."""
    upper = hashes >> np.uint64(32)
    slots: NDArray[np.int64] = ((upper * np.uint64(slot_count)) >> np.uint64(32)).astype(np.int64)
    return slots


def _flag_words(table: BlockTable) -> U64:
    flags = table.headers["flags"].astype(np.uint64) << np.uint64(32)
    words: U64 = flags | table.headers["cflags"].astype(np.uint64)
    return words


def identities(table: BlockTable) -> Identities:
    """The dedupe key of every block: shape (n,), of :data:`IDENTITY`.

    Equal when cs_base, flags, cflags, page_offset, guest_size and guest bytes are,
    moving immediates left out.
    """
    head = table.headers
    seeds = _mix_all(head["page_offset"].astype(np.uint64))
    seeds = _mix_all(seeds ^ _flag_words(table))
    seeds = _mix_all(seeds ^ head["cs_base"])
    starts = table.offsets + bf.BLOCK.size
    ends = starts + head["guest_size"]
    digest, view = xxhash.xxh3_128_digest, table.buffer
    rows = zip(starts.tolist(), ends.tolist(), seeds.tolist(), strict=True)
    digests = [digest(view[a:b], s) for a, b, s in rows]
    for row in moving_rows(table):
        code = masked(table.guest_bytes(row), table.imms(row))
        digests[row] = digest(code, int(seeds[row]))
    return np.frombuffer(b"".join(digests), IDENTITY)


def masked(guest: bytes | memoryview, imms: bf.Records) -> bytes:
    """``guest`` with every moving immediate replaced by zeros."""
    code = bytearray(guest)
    for value in imms["guest"].tolist():
        offset = value & ~bf.IMM_RELATIVE
        code[offset : offset + bf.IMM_BYTES] = bytes(bf.IMM_BYTES)
    return bytes(code[: len(guest)])


def moving_rows(table: BlockTable) -> list[int]:
    """Rows of single-page blocks that have moving immediates."""
    movable = (table.imm_counts() > 0) & (table.headers["block_flags"] & bf.BLOCK_TWO_PAGES == 0)
    rows: list[int] = movable.nonzero()[0].tolist()
    return rows
