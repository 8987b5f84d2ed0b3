# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a pack: opened without scanning it, looked up through its index."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from sysqcache.base.errors import FormatError
from sysqcache.base.mapfile import map_private, read_private
from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import BlockTable
from sysqcache.store import key, moving

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class PackHeader:
    """The checked header of a pack; sizes and offsets in bytes.

    :param seed: keys the hash of the index; 0 in packs of version 1, which had none.
    """

    version: int
    fingerprint: bytes
    text: str
    file_size: int
    block_count: int
    slot_count: int
    index_entries: int
    index_offset: int
    blocks_size: int
    seed: int


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


def outdated_header(path: Path) -> PackHeader | None:
    """The header of a pack of an earlier format version; None for any other file.

    No engine reads such a pack, and nothing here reads its blocks. Raises OSError.
    """
    try:
        first, size = read_private(path, bf.HEADER_SIZE)
        header = parse_header(first, size, oldest=bf.OLDEST_KNOWN)
    except FormatError:
        return None
    return None if header.version == bf.VERSION else header


def read_header(path: Path) -> PackHeader:
    """The checked header of a pack that only we could have written; maps nothing.

    Raises FormatError, OSError.
    """
    first, size = read_private(path, bf.HEADER_SIZE)
    return parse_header(first, size, name=str(path))


def parse_header(
    first: bf.Buffer, file_size: int, *, name: str = "pack", oldest: int = bf.VERSION
) -> PackHeader:
    """Check a pack's first 4096 bytes against themselves and the file's size.

    Raises FormatError with one of ``counters.REJECTS`` as reason.

    :param oldest: headers of format versions from this one on are read.
    """

    def require(condition: bool, reason: str, words: str = "") -> None:
        if not condition:
            words = words or f"bad {reason}"
            raise FormatError(f"{name} is not a usable pack: {words}", reason=reason)

    require(len(first) >= bf.HEADER_SIZE, "truncated")
    head = bf.PACK_HEADER.unpack(first)
    require(bytes(first[:8]) == bf.PACK_MAGIC, "magic")
    version = int(head["version"])
    require(oldest <= version <= bf.VERSION, "version", bf.version_words(version))
    body = memoryview(first)[: bf.HEADER_SIZE - 8]
    require(head["checksum"] == bf.checksum(body), "header-checksum")
    require(head["page_bits"] == bf.PAGE_BITS, "page-bits")
    require(head["file_size"] <= file_size, "truncated")
    values = {f: int(head[f]) for f in _NUMBERS}
    text = head["text"].tobytes()
    require(_sizes_fit(values) and values["file_size"] == file_size, "bounds")
    require(values["text_size"] <= len(text), "bounds")
    return PackHeader(
        version=version,
        fingerprint=head["fingerprint"].tobytes(),
        text=text[: values["text_size"]].decode("utf-8", "replace"),
        file_size=file_size,
        block_count=values["block_count"],
        slot_count=values["slot_count"],
        index_entries=values["index_entries"],
        index_offset=values["index_offset"],
        blocks_size=values["blocks_size"],
        seed=int(head["seed"]),
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
    """A mapped pack. Opening checks the header and nothing else."""

    def __init__(self, buffer: memoryview, *, name: str = "pack") -> None:
        """Check the header of a pack in memory. Raises FormatError."""
        self.name = name
        self.buffer = buffer
        self.header = parse_header(buffer[: bf.HEADER_SIZE], len(buffer), name=name)

    @classmethod
    def open(cls, path: Path) -> Pack:
        """Map a pack that only we could have written. Raises FormatError, OSError."""
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

    def holds_all_of(self, table: BlockTable) -> bool:
        """Whether ``table`` are all blocks that the header promises, one behind the other."""
        sizes = table.padded_sizes()
        ends = np.cumsum(sizes) + bf.HEADER_SIZE
        return (
            len(table) == self.header.block_count
            and int(sizes.sum()) == self.header.blocks_size
            and np.array_equal(table.offsets, ends - sizes)
        )

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
            seed=self.header.seed,
            prefix=first,
            page_offset=query.page_offset,
            flags=query.flags,
            cflags=query.cflags,
            cs_base=query.cs_base,
            long=long,
        )
        home = key.home_slot(value, self.header.slot_count)
        for position in self._candidates(home, value & 0xFFFF, first, long=long):
            if self._fits(position * bf.ALIGN, query):
                return position * bf.ALIGN
        return None

    def _candidates(self, home: int, tag: int, prefix: int, *, long: bool) -> list[int]:
        """Positions that a lookup compares, in order; it reads so many entries and no more."""
        walked = self.index[home : home + bf.MAX_WALK]
        empty = np.flatnonzero(walked["position"] == 0)
        walked = walked[: empty[0]] if len(empty) else walked
        mask = np.uint64(0xFFFFFFFFFFFFFFFF if long else 0xFF)
        same = (walked["tag"] == tag) & (walked["prefix"] & mask == np.uint64(prefix) & mask)
        found: list[int] = walked["position"][same][: bf.MAX_CANDIDATES].tolist()
        return found

    def _fits(self, offset: int, query: Query) -> bool:
        """Whether an intact block lies there that has the key and the guest code asked for."""
        end = bf.HEADER_SIZE + self.header.blocks_size
        if not bf.HEADER_SIZE <= offset <= end - bf.BLOCK.size - bf.ALIGN:
            return False
        table = BlockTable.at(self.buffer, np.array([offset], np.int64))
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
    if not moving.moving_rows(table):
        return bytes(own) == guest
    return len(guest) == len(own) and moving.fits(own, table.imms(0), guest)
