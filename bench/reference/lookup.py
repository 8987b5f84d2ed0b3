# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks a block up in a pack as the engine does, one number at a time.

The store itself hashes whole tables (``sysqcache/store/key.py``) and looks nothing up; tests
hold both, and the engine, against each other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import BlockTable
from sysqcache.store import key

if TYPE_CHECKING:
    from sysqcache.store.pack import Pack

_MULTIPLIER: Final = 0x9E3779B97F4A7C15
_MASK: Final = 0xFFFFFFFFFFFFFFFF
_FAR: Final = 64 << 20
_NEAR_END: Final = -(16 << 20)


@dataclass(frozen=True)
class Query:
    """What a machine looks for at one place.

    :param guest: guest bytes from the place on, to the end of what a block may cover.
    :param any_context: only blocks that serve any number of vCPUs.
    """

    cs_base: int
    flags: int
    cflags: int
    page_offset: int
    guest: bytes
    any_context: bool = False


def mix(x: int) -> int:
    """One round of the index hash on a 64-bit number."""
    x ^= x >> 32
    x = (x * _MULTIPLIER) & _MASK
    return x ^ (x >> 29)


def is_long(page_offset: int, guest_size: int) -> bool:
    """Whether the key holds eight guest bytes (else the first one alone)."""
    return guest_size >= bf.PREFIX_BYTES and page_offset <= bf.PAGE_SIZE - bf.PREFIX_BYTES


def index_hash(
    *, seed: int, prefix: int, page_offset: int, flags: int, cflags: int, cs_base: int, long: bool
) -> int:
    """The hash of a block or of a lookup.

    :param seed: of the pack.
    :param prefix: the first eight guest bytes, little-endian; only the first byte
        counts when ``long`` is false.
    """
    p = prefix if long else prefix & 0xFF
    turned = (seed << 32 | seed >> 32) & _MASK
    h = mix(seed ^ (page_offset | (int(long) << 16)))
    h = mix(h ^ p)
    h = mix(h ^ turned ^ (flags << 32 | cflags))
    h = mix(h ^ cs_base)
    return mix(h ^ seed)


def home_slot(value: int, slot_count: int) -> int:
    """Where a lookup of hash ``value`` begins."""
    return ((value >> 32) * slot_count) >> 32


def find(pack: Pack, query: Query) -> int | None:
    """Offset of the block that a machine would adopt, or None: as the engine looks.

    For a machine that may have several vCPUs, blocks that serve any number first.
    Blocks with a long key first, longer ones before shorter. The guest bytes
    are compared; the block's checksum is the caller's business.
    """
    if query.cflags & bf.CF_PARALLEL:
        cflags = query.cflags & ~bf.CF_PARALLEL
        found = _find(pack, replace(query, cflags=cflags, any_context=True))
        if found is not None:
            return found
    return _find(pack, query)


def _find(pack: Pack, query: Query) -> int | None:
    first = int.from_bytes(query.guest[: bf.PREFIX_BYTES], "little")
    for long in (True, False):
        if long and not is_long(query.page_offset, len(query.guest)):
            continue
        found = _scan(pack, query, first, long=long)
        if found is not None:
            return found
    return None


def _scan(pack: Pack, query: Query, first: int, *, long: bool) -> int | None:
    value = index_hash(
        seed=pack.header.seed,
        prefix=first,
        page_offset=query.page_offset,
        flags=query.flags,
        cflags=query.cflags,
        cs_base=query.cs_base,
        long=long,
    )
    home = home_slot(value, pack.header.slot_count)
    for position in _candidates(pack, home, value & 0xFFFF, first, long=long):
        if _fits(pack, position * bf.ALIGN, query):
            return position * bf.ALIGN
    return None


def _candidates(pack: Pack, home: int, tag: int, prefix: int, *, long: bool) -> list[int]:
    """Positions that a lookup compares, in order; it reads so many entries and no more."""
    walked = pack.index[home : home + bf.MAX_WALK]
    empty = np.flatnonzero(walked["position"] == 0)
    walked = walked[: empty[0]] if len(empty) else walked
    mask = np.uint64(_MASK if long else 0xFF)
    same = (walked["tag"] == tag) & (walked["prefix"] & mask == np.uint64(prefix) & mask)
    found: list[int] = walked["position"][same][: bf.MAX_CANDIDATES].tolist()
    return found


def _fits(pack: Pack, offset: int, query: Query) -> bool:
    """Whether an intact block lies there that has the key and the guest code asked for."""
    end = bf.HEADER_SIZE + pack.header.blocks_size
    if not bf.HEADER_SIZE <= offset <= end - bf.BLOCK.size - bf.ALIGN:
        return False
    table = BlockTable.at(pack.buffer, np.array([offset], np.int64))
    head = table.headers[0]
    return (
        int(head["cs_base"]) == query.cs_base
        and int(head["flags"]) == query.flags
        and int(head["cflags"]) == query.cflags
        and (not query.any_context or bool(table.any_context()[0]))
        and int(head["page_offset"]) == query.page_offset
        and bool(table.in_bounds(end - table.offsets)[0])
        and _same_code(table, query.guest[: int(head["guest_size"])])
    )


def _same_code(table: BlockTable, guest: bytes) -> bool:
    """Whether a machine that has ``guest`` may run the one block of ``table``."""
    own = table.guest_bytes(0)
    if not key.moving_rows(table):
        return bytes(own) == guest
    return len(guest) == len(own) and _moved(own, table.imms(0), guest)


def _moved(block: memoryview, imms: bf.Records, guest: bytes) -> bool:
    """Whether guest code differs from a block's own in moving immediates alone."""
    for value in imms["guest"].tolist():
        offset = value & ~bf.IMM_RELATIVE
        word = int.from_bytes(guest[offset : offset + bf.IMM_BYTES], "little", signed=True)
        if not _is_opaque(word, bool(value & bf.IMM_RELATIVE)):
            return False
    return key.masked(block, imms) == key.masked(guest, imms)


def _is_opaque(value: int, relative: bool) -> bool:
    """Whether the engine would not look at the immediate ``value`` (signed, 32 bits)."""
    if relative:
        return not -_FAR <= value < _FAR
    return value < _NEAR_END
