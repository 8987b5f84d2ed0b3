# SPDX-License-Identifier: GPL-2.0-or-later
"""What each page of the guest's memory is used for, from the kernel's array of struct page.

The array lists every page, so the page cache of files that no process maps any more is
found as well. It is read in pieces of one memory section, mostly 128 MiB of guest memory.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sysqcache.guestmap import limits
from sysqcache.guestmap.guest import Guest
from sysqcache.guestmap.memory import UnreadableError
from sysqcache.guestmap.resources import Resources
from sysqcache.guestmap.table import I64, PAGE_BITS, U64

U8 = NDArray[np.uint8]

# include/linux/page-flags.h: the low bits of page->mapping
_ANONYMOUS: Final = 1
_MAPPING_BITS: Final = 3
_SECTION_BITS: Final = 27
_LEAST_SECTION_BITS: Final = 24
_MOST_SECTION_BITS: Final = 30
"""No architecture has smaller or larger sections."""
_ALL: Final = (1 << 64) - 1
_MOST_FOLIO_BYTES: Final = 1 << 30
"""Of the struct pages of a folio; no array of them lies so near to the end of all addresses."""

_MEMBERS: Final = {
    "flags": "<u8",
    "mapping": "<u8",
    "index": "<u8",
    "compound_head": "<u8",
    "_refcount": "<u4",
    "page_type": "<u4",
}
"""What is read of a struct page."""


class Use(enum.IntEnum):
    """What a struct page says of its page."""

    UNKNOWN = 0
    FREE = 1
    KERNEL = 2
    RESERVED = 3
    ANONYMOUS = 4
    FILE = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Pages:
    """One row for each 4 KiB of guest memory that have a struct page.

    A page of the guest's own may be larger: its parts are rows that follow each other.

    :param page: shape (n,), page numbers, ascending.
    :param use: shape (n,), values of :class:`Use`.
    :param mapping: shape (n,), address of the struct address_space of file pages, else 0.
    :param index: shape (n,), place of a file page in its file, in 4 KiB.
    """

    page: U64
    use: U8
    mapping: U64
    index: U64


class PageWalk:
    """Reads the array of struct page; ``cut_short`` says why it ended early."""

    def __init__(self, guest: Guest, resources: Resources) -> None:
        layout = guest.layout
        self._ram = resources.ram()
        self._guest = guest
        self._size = layout.size("page")
        if self._size % 8 or not 32 <= self._size <= 256:
            raise UnreadableError(f"struct page of {self._size} bytes")
        self._fields = np.dtype(
            {
                "names": list(_MEMBERS),
                "formats": list(_MEMBERS.values()),
                "offsets": [layout.at(f"page.{name}") for name in _MEMBERS],
                "itemsize": self._size,
            }
        )
        self._base = guest.translation.vmemmap_base
        self._page_bits = guest.translation.page_bits
        self._slab = self._slab_test()
        self._reserved = np.uint64(1 << (layout.enums.get("PG_reserved", 63) & 63))
        self.cut_short = ""

    def _slab_test(self) -> tuple[np.uint64, int]:
        """(bit of page->flags, value of page->page_type) that mark a slab; 0 for none.

        The flag became a page type in Linux 6.10.
        """
        value = self._guest.info.numbers.get("PAGE_SLAB_MAPCOUNT_VALUE")
        if value is not None:
            return np.uint64(0), value & 0xFFFFFFFF
        bit = self._guest.layout.enums.get("PG_slab")
        return np.uint64(0 if bit is None else 1 << (bit & 63)), 0

    def pages(self) -> Pages:
        """All pages; raises :class:`UnreadableError` when not one section can be read."""
        if not self._ram:
            raise UnreadableError("the kernel names no memory")
        section = self._guest.info.numbers.get("SECTION_SIZE_BITS", _SECTION_BITS)
        section = max(_LEAST_SECTION_BITS, min(section, _MOST_SECTION_BITS))
        first = min(start for start, _ in self._ram) >> section << section
        end = max(end for _, end in self._ram)
        count = (end - first) >> PAGE_BITS
        if count > limits.GUEST_PAGES:
            self.cut_short = f"only the first {limits.GUEST_PAGES} of {count} pages were looked at"
            end = first + (limits.GUEST_PAGES << PAGE_BITS)
        parts = []
        for start in range(first, end, 1 << section):
            try:
                parts.append(self._section(start, min(end, start + (1 << section))))
            except UnreadableError:
                continue  # a hole in memory, such as the one for PCI, has no struct pages
        if not parts:
            raise UnreadableError("the kernel's array of pages can't be read")
        return Pages(
            *(
                np.concatenate([getattr(part, field.name) for part in parts])
                for field in dataclasses.fields(Pages)
            )
        )

    def _section(self, start: int, end: int) -> Pages:
        """The pages of the physical memory ``start``..``end``."""
        first = start >> self._page_bits
        count = (end >> self._page_bits) - first
        raw = self._guest.memory.bulk(self._base + first * self._size, count * self._size)
        rows = np.frombuffer(raw, self._fields)
        own = np.arange(count)
        head, is_tail = self._heads(rows, first, own)
        top = rows[head]
        kind = top["mapping"] & np.uint64(_MAPPING_BITS)
        slab_bit, slab_type = self._slab
        is_slab = (top["flags"] & slab_bit) != 0
        if slab_type:
            is_slab |= top["page_type"] == np.uint32(slab_type)
        use = np.full(count, Use.KERNEL, np.uint8)
        is_file = (top["mapping"] != 0) & (kind == 0)
        use[is_file] = Use.FILE
        use[(kind & np.uint64(_ANONYMOUS)) != 0] = Use.ANONYMOUS
        use[is_slab] = Use.KERNEL
        use[(top["_refcount"] == 0) & ~is_slab] = Use.FREE
        use[(rows["flags"] & self._reserved) != 0] = Use.RESERVED
        use[is_tail & (head == own)] = Use.UNKNOWN
        is_file = use == Use.FILE
        return self._small(
            Pages(
                page=(own + first).astype(np.uint64),
                use=use,
                mapping=np.where(is_file, top["mapping"], np.uint64(0)),
                index=np.where(
                    is_file, top["index"] + (own - head).astype(np.uint64), np.uint64(0)
                ),
            )
        )

    def _small(self, pages: Pages) -> Pages:
        """Pages of 4 KiB instead of the guest's own."""
        bits = self._page_bits - PAGE_BITS
        if not bits:
            return pages
        part = np.tile(np.arange(1 << bits, dtype=np.uint64), len(pages.page))
        page, use, mapping, index = (
            np.repeat(getattr(pages, field.name), 1 << bits) for field in dataclasses.fields(Pages)
        )
        shift = np.uint64(bits)
        index = np.where(use == Use.FILE, (index << shift) + part, np.uint64(0))
        return Pages(page=(page << shift) + part, use=use, mapping=mapping, index=index)

    def _heads(self, rows: NDArray[np.void], first: int, own: I64) -> tuple[I64, NDArray[np.bool_]]:
        """The row of each page's compound head: its own row when it is no tail.

        A tail whose head lies outside this section keeps its own row too.
        """
        info = rows["compound_head"] - np.uint64(1)
        is_tail = (rows["compound_head"] & np.uint64(1)) != 0
        start = np.uint64((self._base + first * self._size) & _ALL)
        # v7.1, "mm: rework compound_head() for power-of-2 sizeof(struct page)": the head's address,
        # or a mask that makes it of the tail's, which no address looks like
        is_mask = info >= np.uint64(-_MOST_FOLIO_BYTES & _ALL)
        place = start + own.astype(np.uint64) * np.uint64(self._size)
        head = np.where(is_mask, place & info, info)
        distance: Any = (head - start).astype(np.int64) // self._size
        good = is_tail & (distance >= 0) & (distance < own)
        return np.where(good, distance, own), is_tail
