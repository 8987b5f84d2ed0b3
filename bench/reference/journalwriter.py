# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes journals as the engine does: for golden files, tests and benchmarks.

It shares the byte tables with the reader and nothing else.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sysqcache.formats import block as bf

if TYPE_CHECKING:
    from collections.abc import Iterable

_BLOCK = struct.Struct("<QIIHHHHI2H2HI")
_RECORD = struct.Struct("<IIHHIQQQ")


@dataclass(frozen=True)
class BlockData:
    """One translated block and where it was found."""

    guest: bytes
    code: bytes
    search: bytes = b"\x01\x02"
    cs_base: int = 0
    flags: int = 0
    cflags: int = 0
    pc: int = 0x1000
    icount: int = 1
    block_flags: int | None = None
    """By default what ``pc``, the size of ``guest`` and ``imms`` make of it."""
    vcpu: int = 0
    ram0: int = 0
    ram1: int = bf.NO_RAM
    imms: tuple[tuple[int, int], ...] = ()
    """Moving immediates, as they are written: (offset and kind, place in ``code``)."""

    def encode(self) -> bytes:
        """The block's bytes, padding included."""
        page_offset = self.pc & (bf.PAGE_SIZE - 1)
        fields = _BLOCK.pack(
            self.cs_base,
            self.flags,
            self.cflags,
            page_offset,
            len(self.guest),
            self.icount,
            len(self.search),
            len(self.code),
            *(bf.NO_JUMP,) * 4,
            self._flags() if self.block_flags is None else self.block_flags,
        )
        imms = b"".join(struct.pack("<HH", *imm) for imm in self.imms)
        body = b"".join((fields, self.guest, self.code, self.search, imms))
        block = bf.checksum(body).to_bytes(8, "little") + body
        return block.ljust(bf.padded(len(block)), b"\0")

    def _flags(self) -> int:
        crosses = (self.pc & (bf.PAGE_SIZE - 1)) + len(self.guest) > bf.PAGE_SIZE
        flags = bf.BLOCK_TWO_PAGES if crosses else 0
        flags |= len(self.imms) << bf.BLOCK_IMMS_SHIFT
        if self.imms and self.imms[0][0] & ~bf.IMM_RELATIVE < bf.PREFIX_BYTES:
            flags |= bf.BLOCK_SHORT_KEY
        return flags

    def record(self) -> bytes:
        """The block as a journal record."""
        payload = self.encode()
        header = record_header(
            bf.RECORD_BLOCK, len(payload), self.vcpu, (self.pc, self.ram0, self.ram1)
        )
        return header + payload


def record_header(
    kind: int, payload_size: int, vcpu: int = 0, place: tuple[int, int, int] = (0, 0, bf.NO_RAM)
) -> bytes:
    """A record's 48 header bytes; ``place`` is (pc, ram0, ram1)."""
    total = bf.RECORD.size + bf.padded(payload_size)
    head = _RECORD.pack(bf.RECORD_MAGIC, total, kind, vcpu, payload_size, *place)
    return head + bf.checksum(head).to_bytes(8, "little")


def ram_map_record(ranges: Iterable[tuple[int, int, int]]) -> bytes:
    """A RAM map record of (ram_addr, guest_physical, size) ranges."""
    payload = b"".join(struct.pack("<3Q", *r) for r in ranges)
    return record_header(bf.RECORD_RAM_MAP, len(payload)) + payload.ljust(
        bf.padded(len(payload)), b"\0"
    )


def pack_record(number: int, name: str) -> bytes:
    """The record of a mapped pack; ``name`` is cut as the engine does it."""
    payload = struct.pack("<II72s", number, 0, name.encode()[:71])
    return record_header(bf.RECORD_PACK, len(payload)) + payload


def adopted_record(uses: Iterable[tuple[int, int, int, int]]) -> bytes:
    """A record of first uses of (position, pack, vcpu, ram0)."""
    payload = b"".join(struct.pack("<IHHQ", *use) for use in uses)
    return record_header(bf.RECORD_ADOPTED, len(payload)) + payload


def journal_header(fingerprint: bytes, text: str, *, start_time: int = 0, pid: int = 0) -> bytes:
    """A journal's first 4096 bytes."""
    encoded = text.encode()
    header = bf.JOURNAL_HEADER.pack(
        magic=bf.JOURNAL_MAGIC,
        version=bf.VERSION,
        header_size=bf.HEADER_SIZE,
        fingerprint=fingerprint,
        page_bits=bf.PAGE_BITS,
        text_size=len(encoded),
        start_time=start_time,
        pid=pid,
        text=encoded,
    )
    return bf.seal_header(header)
