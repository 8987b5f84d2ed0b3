# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a pack: opened without scanning it, looked up through its index."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from sysqcache.base.errors import FormatError
from sysqcache.base.mapfile import map_private
from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import BlockTable
from sysqcache.store import key, moving

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class PackHeader:
    """The checked header of a pack; sizes and offsets in bytes."""

    fingerprint: bytes
    text: str
    file_size: int
    block_count: int
    slot_count: int
    index_entries: int
    index_offset: int
    blocks_size: int


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


def slots_for(block_count: int) -> int:
    """Home slots of the index of ``block_count`` blocks."""
    return block_count * 3 // 2 + 16


def parse_header(first: bf.Buffer, file_size: int, *, name: str = "pack") -> PackHeader:
    """Check a pack's first 4096 bytes against themselves and the file's size.

    Raises FormatError with one of ``counters.REJECTS`` as reason.
    """

    def require(condition: bool, reason: str) -> None:
        if not condition:
            raise FormatError(f"{name} is not a usable pack: bad {reason}", reason=reason)

    require(len(first) >= bf.HEADER_SIZE, "truncated")
    head = bf.PACK_HEADER.unpack(first)
    require(bytes(first[:8]) == bf.PACK_MAGIC, "magic")
    require(head["version"] == bf.VERSION, "version")
    body = memoryview(first)[: bf.HEADER_SIZE - 8]
    require(head["checksum"] == bf.checksum(body), "header-checksum")
    require(head["page_bits"] == bf.PAGE_BITS, "page-bits")
    require(head["file_size"] <= file_size, "truncated")
    values = {f: int(head[f]) for f in _NUMBERS}
    text = head["text"].tobytes()
    require(_sizes_fit(values) and values["file_size"] == file_size, "bounds")
    require(values["text_size"] <= len(text), "bounds")
    return PackHeader(
        fingerprint=head["fingerprint"].tobytes(),
        text=text[: values["text_size"]].decode("utf-8", "replace"),
        file_size=file_size,
        block_count=values["block_count"],
        slot_count=values["slot_count"],
        index_entries=values["index_entries"],
        index_offset=values["index_offset"],
        blocks_size=values["blocks_size"],
    )


_NUMBERS: Final = (
    "header_size",
    "text_size",
    "file_size",
    "block_count",
    "slot_count",
    "index_entries",
    "index_offset",
    "blocks_offset",
    "blocks_size",
)


def _sizes_fit(v: dict[str, int]) -> bool:
    """Whether the areas lie inside the file, in order (Python numbers: no overflow)."""
    return (
        v["header_size"] == v["blocks_offset"] == bf.HEADER_SIZE
        and v["blocks_size"] % bf.ALIGN == 0
        and v["blocks_offset"] + v["blocks_size"] <= v["index_offset"]
        and v["index_offset"] % bf.HEADER_SIZE == 0
        and v["index_offset"] + v["index_entries"] * bf.ALIGN == v["file_size"]
        and v["file_size"] <= bf.ALIGN << 32
        and v["slot_count"] == slots_for(v["block_count"])
        and v["slot_count"] < v["index_entries"]
        and v["block_count"] < v["index_entries"]
        and v["block_count"] * (bf.BLOCK.size + bf.ALIGN) <= v["blocks_size"]
    )


class Pack:
    """A mapped pack. Opening reads the header and nothing else."""

    def __init__(self, buffer: memoryview, *, name: str = "pack") -> None:
        """Check the header of a pack in memory. Raises FormatError."""
        self.name = name
        self.buffer = buffer
        self.header = parse_header(buffer[: bf.HEADER_SIZE], len(buffer), name=name)

    @classmethod
    def open(cls, path: Path) -> Pack:
        """Map a pack that only we could have written. Raises FormatError."""
        return cls(map_private(path), name=str(path))

    @cached_property
    def index(self) -> bf.Records:
        """The index, shape (index_entries,), of ``block.INDEX_ENTRY.dtype``."""
        head = self.header
        return np.frombuffer(
            self.buffer, bf.INDEX_ENTRY.dtype, head.index_entries, head.index_offset
        )

    def blocks(self) -> BlockTable:
        """Every block that the index names and whose sizes are sane, in file order.

        Checksums are not read. Fewer than ``header.block_count`` means damage.
        """
        positions = np.unique(self.index["position"]).astype(np.int64) * bf.ALIGN
        end = bf.HEADER_SIZE + self.header.blocks_size
        inside = (positions >= bf.HEADER_SIZE) & (positions <= end - bf.BLOCK.size - bf.ALIGN)
        table = BlockTable.at(self.buffer, positions[inside])
        return table.select(table.in_bounds(end - table.offsets))

    def find(self, query: Query) -> int | None:
        """Offset of the block that a machine would adopt, or None: as the engine looks.

        For a machine that may have several vCPUs, blocks that serve any number first.
        Blocks with a long key first, longer ones before shorter. The guest bytes
        are compared; the block's checksum is the caller's business.
        """
        if query.cflags & bf.CF_PARALLEL:
            cflags = query.cflags & ~bf.CF_PARALLEL
            found = self._find(replace(query, cflags=cflags, any_context=True))
            if found is not None:
                return found
        return self._find(query)

    def _find(self, query: Query) -> int | None:
        first = int.from_bytes(query.guest[: bf.PREFIX_BYTES], "little")
        for long in (True, False):
            if long and not key.is_long(query.page_offset, len(query.guest)):
                continue
            found = self._scan(query, first, long=long)
            if found is not None:
                return found
        return None

    def _scan(self, query: Query, first: int, *, long: bool) -> int | None:
        value = key.index_hash(
            prefix=first,
            page_offset=query.page_offset,
            flags=query.flags,
            cflags=query.cflags,
            cs_base=query.cs_base,
            long=long,
        )
        tag = value & 0xFFFF
        for slot in range(key.home_slot(value, self.header.slot_count), self.header.index_entries):
            entry = self.index[slot]
            if not entry["position"]:
                return None
            if entry["tag"] == tag and self._fits(entry, query):
                return int(entry["position"]) * bf.ALIGN
        return None

    def _fits(self, entry: np.void, query: Query) -> bool:
        offset = int(entry["position"]) * bf.ALIGN
        end = bf.HEADER_SIZE + self.header.blocks_size
        if not bf.HEADER_SIZE <= offset <= end - bf.BLOCK.size - bf.ALIGN:
            return False
        head = bf.BLOCK.unpack(self.buffer, offset)
        size = int(head["guest_size"])
        start = offset + bf.BLOCK.size
        return (
            int(head["cs_base"]) == query.cs_base
            and int(head["flags"]) == query.flags
            and int(head["cflags"]) == query.cflags
            and (not query.any_context or bool(int(head["block_flags"]) & bf.BLOCK_ANY_CONTEXT))
            and int(head["page_offset"]) == query.page_offset
            and start + size <= end
            and self._same_code(offset, query.guest[:size])
        )

    def _same_code(self, offset: int, guest: bytes) -> bool:
        table = BlockTable.at(self.buffer, np.array([offset], np.int64))
        if not moving.moving_rows(table):
            return bytes(table.guest_bytes(0)) == guest
        return len(guest) == len(table.guest_bytes(0)) and moving.fits(
            table.guest_bytes(0), table.imms(0), guest
        )
