# SPDX-License-Identifier: GPL-2.0-or-later
"""VMCOREINFO: what a Linux kernel tells about itself to those who look from outside.

The guest hands it to QEMU through fw_cfg when it has that driver. If not, the note
still lies in its memory, at the start of a page, and is found by looking at all pages.
"""

from __future__ import annotations

import dataclasses
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import numpy as np

from sysqcache.guestmap import limits
from sysqcache.guestmap.memory import PAGE, PhysicalMemory, UnreadableError

_LINE: Final = re.compile(rb"(?:([A-Z]+)\(([^)\n]{1,64})\)|([A-Z-]{1,32}))=([^\n]{0,256})")
_TABLES: Final = (b"SYMBOL", b"NUMBER", b"OFFSET", b"SIZE")
_NAME: Final = b"VMCOREINFO\0"
_HEADER: Final = 24
_CHUNK: Final = 4 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class VmcoreInfo:
    """The parsed note; ``symbols`` are virtual addresses with the KASLR slide applied.

    ``sizes`` are bytes of structures, ``page_size`` those of a page of the kernel's.
    """

    release: str
    build_id: str
    kaslr_offset: int
    symbols: Mapping[str, int]
    numbers: Mapping[str, int]
    offsets: Mapping[str, int]
    raw: bytes
    page_size: int = PAGE
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def is_narrow(self) -> bool:
        """Whether it is a kernel of 32 bits: those of 64 lie in the upper half of all addresses."""
        return bool(self.symbols) and max(self.symbols.values()) >> 32 == 0

    @classmethod
    def parse(cls, raw: bytes) -> VmcoreInfo:
        """Parse the note's text; lines that make no sense are left out."""
        raw = raw[: limits.VMCOREINFO_BYTES].partition(b"\0")[0]
        plain: dict[str, str] = {}
        tables: dict[bytes, dict[str, int]] = {kind: {} for kind in _TABLES}
        for kind, name, word, value in _LINE.findall(raw):
            text = value.decode("ascii", "replace").strip()
            if word:
                plain[word.decode()] = text
            elif kind in tables:
                # some numbers are decimal, those that are addresses are not
                base = 16 if kind == b"SYMBOL" or text.startswith("0x") else 10
                tables[kind][name.decode("ascii", "replace")] = _number(text, base)
        build_id = plain.get("BUILD-ID", "").lower()
        return cls(
            release=plain.get("OSRELEASE", ""),
            build_id=build_id if re.fullmatch(r"[0-9a-f]{2,128}", build_id) else "",
            kaslr_offset=_number(plain.get("KERNELOFFSET", "0"), 16),
            symbols=tables[b"SYMBOL"],
            numbers=tables[b"NUMBER"],
            offsets=tables[b"OFFSET"],
            raw=raw,
            page_size=_number(plain.get("PAGESIZE", str(PAGE)), 10),
            sizes=tables[b"SIZE"],
        )


def _number(text: str, base: int) -> int:
    try:
        return int(text, base)
    except ValueError:
        return 0


def find_notes(memory: PhysicalMemory, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """The texts of all VMCOREINFO notes at page starts in ``ranges`` of RAM.

    ``ranges`` are (start, end) physical addresses. A rebooted guest may hold an older
    note as well, so the caller has to try each.
    """
    budget = limits.SCAN_BYTES
    for first, end in ranges:
        start = (first + PAGE - 1) & ~(PAGE - 1)
        while start + PAGE <= end and budget > 0:
            size = min(_CHUNK, (end - start) & ~(PAGE - 1))
            budget -= size
            try:
                chunk = memory.read_physical(start, size)
            except UnreadableError:
                chunk = b""
            for offset in _note_pages(chunk):
                yield from _note(memory, start + offset)
            start += size


def _note_pages(chunk: bytes) -> list[int]:
    """Offsets of pages that begin like the note: name size 11, type 0, "VMCOREINFO"."""
    words = np.frombuffer(chunk, "<u4", len(chunk) // 4).reshape(-1, PAGE // 4)
    wanted = np.frombuffer(struct.pack("<I4s4s", len(_NAME), b"VMCO", b"REIN"), "<u4")
    found = (words[:, 0] == wanted[0]) & (words[:, 3] == wanted[1]) & (words[:, 4] == wanted[2])
    return [int(page) * PAGE for page in np.flatnonzero(found & (words[:, 2] == 0))]


def _note(memory: PhysicalMemory, address: int) -> Iterator[bytes]:
    try:
        header = memory.read_physical(address, _HEADER)
        size = int.from_bytes(header[4:8], "little")
        if header[12:23] == _NAME and 0 < size <= limits.VMCOREINFO_BYTES:
            yield memory.read_physical(address + _HEADER, size)
    except UnreadableError:
        return
