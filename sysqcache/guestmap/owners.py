# SPDX-License-Identifier: GPL-2.0-or-later
"""All that is known of pages put together into one table of owners."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from sysqcache.guestmap import limits
from sysqcache.guestmap.flatview import MemoryRange
from sysqcache.guestmap.guest import Guest
from sysqcache.guestmap.memory import ExhaustedError
from sysqcache.guestmap.pagecache import PageCache
from sysqcache.guestmap.pages import Pages, Use
from sysqcache.guestmap.resources import Resources
from sysqcache.guestmap.result import KernelInfo, KernelModule
from sysqcache.guestmap.table import (
    I64,
    PAGE,
    PAGE_BITS,
    U64,
    UNKNOWN,
    Owner,
    OwnerKind,
    OwnerTable,
)

_MODULE_PAGES: Final = 1 << 19
"""Pages of 4 KiB: twice the area for modules on x86-64."""


class TableBuilder:
    """Paints owners over the pages of a machine, the surer ones last.

    ``page`` are the page numbers of all of the machine's memory, ascending. Offsets are
    in bytes.
    """

    def __init__(self, ranges: Iterable[MemoryRange]) -> None:
        pieces = [
            np.arange(part.start >> PAGE_BITS, _last(part), dtype=np.uint64) for part in ranges
        ]
        self.page: U64 = np.concatenate([np.zeros(0, np.uint64), *pieces])[: limits.GUEST_PAGES]
        self._owner: I64 = np.zeros(len(self.page), np.int64)
        self._offset: U64 = np.zeros(len(self.page), np.uint64)
        self._owners: list[Owner] = [UNKNOWN]
        self._numbers: dict[Owner, int] = {UNKNOWN: 0}
        for part in ranges:
            if part.rom:
                firmware = Owner(OwnerKind.FIRMWARE, part.name)
                self.paint_range(part.start >> PAGE_BITS, part.end >> PAGE_BITS, firmware)

    def number(self, owner: Owner) -> int:
        """The number of an owner in the table."""
        if owner not in self._numbers:
            self._numbers[owner] = len(self._owners)
            self._owners.append(owner)
        return self._numbers[owner]

    def rows(self, page: U64) -> I64:
        """Rows of page numbers; -1 for pages that the machine does not have."""
        row = np.searchsorted(self.page, page)
        row = np.minimum(row, max(0, len(self.page) - 1))
        if not len(self.page):
            return np.full(len(page), -1, np.int64)
        return np.where(self.page[row] == page, row, -1)

    def paint(self, page: U64, owner: I64 | int, offset: U64 | int = 0) -> None:
        """Give pages their owner; arrays have one element a page."""
        row = self.rows(page)
        good = row >= 0
        self._owner[row[good]] = np.broadcast_to(owner, row.shape)[good]
        self._offset[row[good]] = np.broadcast_to(np.asarray(offset, np.uint64), row.shape)[good]

    def paint_range(self, first: int, end: int, owner: Owner, offset: int = 0) -> None:
        """Give the pages ``first``..``end`` to one owner, consecutively from ``offset``."""
        start, stop = np.searchsorted(self.page, np.array([first, end], np.uint64)).tolist()
        page = self.page[start:stop]
        self._owner[start:stop] = self.number(owner)
        self._offset[start:stop] = (page - np.uint64(first)) * np.uint64(PAGE) + np.uint64(offset)

    def table(self) -> OwnerTable:
        """The finished table."""
        return OwnerTable.from_pages(self._owners, self.page, self._owner, self._offset)


def _last(part: MemoryRange) -> int:
    return min(part.end >> PAGE_BITS, (part.start >> PAGE_BITS) + limits.GUEST_PAGES)


_USES: Final = {
    Use.FREE: Owner(OwnerKind.FREE),
    Use.KERNEL: Owner(OwnerKind.KERNEL, "memory"),
    Use.RESERVED: Owner(OwnerKind.KERNEL, "memory"),
    Use.ANONYMOUS: Owner(OwnerKind.ANONYMOUS),
}


def paint_pages(table: TableBuilder, pages: Pages, cache: PageCache | None) -> None:
    """What the kernel's array of pages tells."""
    for use, owner in _USES.items():
        table.paint(pages.page[pages.use == use], table.number(owner))
    if cache is not None and cache.owners:
        numbers = np.array([table.number(owner) for owner in cache.owners], np.int64)
        rows = np.flatnonzero(cache.owner >= 0)
        offset = pages.index[rows] << np.uint64(PAGE_BITS)
        table.paint(pages.page[rows], numbers[cache.owner[rows]], offset)


def paint_kernel(
    table: TableBuilder, kernel: KernelInfo, pages: Pages, resources: Resources
) -> None:
    """The kernel image; pages that it has given back after booting are no longer its own."""
    own = np.flatnonzero(pages.use == Use.RESERVED)
    base = np.uint64(kernel.physical >> PAGE_BITS)
    count = np.uint64((kernel.end - kernel.base + PAGE - 1) >> PAGE_BITS)
    page = pages.page[own]
    page = page[(page >= base) & (page < base + count)]
    offset = (page - base) << np.uint64(PAGE_BITS)
    owner = np.full(len(page), table.number(_part(kernel, "data")), np.int64)
    for name, start, end in _parts(kernel, resources):
        first, last = max(0, start - kernel.base), max(0, end - kernel.base)
        # an area's last page belongs to it even when it is not full
        inside = (offset >= np.uint64(first & -PAGE)) & (offset < np.uint64(last))
        owner[inside] = table.number(_part(kernel, name))
    table.paint(page, owner, offset)


def paint_text(table: TableBuilder, kernel: KernelInfo) -> None:
    """The kernel's code, which it never gives back: all that is sure when pages tell nothing."""
    start, end = (address - kernel.base for address in kernel.text)
    first, last = ((kernel.physical + one) >> PAGE_BITS for one in (start, end + PAGE - 1))
    table.paint_range(first, last, _part(kernel, "text"), start & -PAGE)


def _parts(kernel: KernelInfo, resources: Resources) -> Iterator[tuple[str, int, int]]:
    """Name, start and end of parts of the image."""
    yield "text", *kernel.text
    start, end = resources.named("Kernel rodata")
    if not end:
        # some architectures count it to the code
        start, end = (
            kernel.text[1] - kernel.base + kernel.physical,
            resources.named("Kernel code")[1],
        )
    yield "rodata", start - kernel.physical + kernel.base, end - kernel.physical + kernel.base
    yield "init", *kernel.init_text


def _part(kernel: KernelInfo, name: str) -> Owner:
    return Owner(OwnerKind.KERNEL, name, kernel.build_id)


def paint_modules(
    table: TableBuilder, guest: Guest, kernel: KernelInfo, modules: Sequence[KernelModule]
) -> str:
    """Kernel modules, and code that the kernel has generated, by its page tables.

    The image, which may lie in the same area, is not looked at.

    :returns: why it ended early, or "".
    """
    start, end = guest.translation.modules
    pages = []
    note = ""
    try:
        for mapped in guest.translation.sweep(start, end, guest.memory.physical):
            if kernel.base <= mapped.virtual < kernel.end:
                continue
            for i in range(mapped.size // PAGE):
                place = mapped.virtual + i * PAGE, mapped.physical + i * PAGE
                pages.append((*place, mapped.executable))
            if len(pages) > _MODULE_PAGES:
                raise ExhaustedError("too many pages of kernel modules")
    except ExhaustedError as error:
        note = str(error)
    if not pages:
        return note
    virtual, physical, executable = (np.array(part) for part in zip(*pages, strict=True))
    _paint_found(table, modules, virtual.astype(np.uint64), physical.astype(np.uint64), executable)
    return note


def _paint_found(
    table: TableBuilder,
    modules: Sequence[KernelModule],
    virtual: U64,
    physical: U64,
    executable: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> None:
    owner = np.where(executable, table.number(Owner(OwnerKind.JIT)), -1)
    offset = np.zeros(len(virtual), np.uint64)
    for module in modules:
        number = table.number(Owner(OwnerKind.KERNEL_MODULE, module.name, module.build_id))
        for first, end in module.memory:
            inside = (virtual >= np.uint64(first)) & (virtual < np.uint64(end))
            owner[inside] = number
            # distances from the start of the code; areas below it wrap around
            offset[inside] = virtual[inside] - np.uint64(module.text[0])
    known = owner >= 0
    table.paint(physical[known] >> np.uint64(PAGE_BITS), owner[known], offset[known])


def paint_firmware(table: TableBuilder, resources: Resources) -> None:
    """Memory that the firmware kept for itself: all that the kernel does not call RAM."""
    ram = resources.ram()
    if not ram:
        return
    owner = Owner(OwnerKind.FIRMWARE, "reserved")
    last = int(table.page[-1]) + 1 if len(table.page) else 0
    place = 0
    for start, end in ram:
        if start >> PAGE_BITS > place:
            table.paint_range(place, start >> PAGE_BITS, owner)
        place = max(place, end >> PAGE_BITS)
    table.paint_range(min(place, last), last, owner)
