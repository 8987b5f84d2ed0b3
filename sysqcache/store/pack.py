# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a pack: opened without scanning it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from sysqcache.base.errors import FormatError
from sysqcache.base.mapfile import map_private, read_private
from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import BlockTable

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

    refused = f"{name} is not a usable pack"
    head = bf.open_header(first, bf.PACK_HEADER, bf.PACK_MAGIC, refused, oldest)
    bf.require(head["file_size"] <= file_size, refused, "truncated")
    values = {f: int(head[f]) for f in _NUMBERS}
    bf.require(_sizes_fit(values) and values["file_size"] == file_size, refused, "bounds")
    return PackHeader(
        version=int(head["version"]),
        fingerprint=head["fingerprint"].tobytes(),
        text=bf.header_text(head, refused),
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
