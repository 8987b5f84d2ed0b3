# SPDX-License-Identifier: GPL-2.0-or-later
"""Walking page tables of any 64-bit format: tables of 64-bit entries, some levels deep."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np

from sysqcache.guestmap.memory import UnreadableError

ADDRESSES: Final = 1 << 64
"""One more than the highest virtual address."""

_ENTRY: Final = 8

Reader = Callable[[int, int], bytes]
"""``read(address, size)``: guest-physical memory; raises :class:`UnreadableError`."""


class Entry(NamedTuple):
    """What an entry that is present says.

    ``address`` is that of the next table, or of the memory when it is a ``leaf``. A table
    that is not ``executable`` forbids it to all below. ``span`` are address bits that a
    leaf maps together with its neighbours, 0 when it stands alone.
    """

    address: int
    leaf: bool
    executable: bool
    span: int = 0


Decoder = Callable[[int, int], Entry | None]
"""``decode(value, level)``, the lowest level being 0: None when nothing is mapped."""


@dataclasses.dataclass(frozen=True, slots=True)
class MappedPage:
    """A mapping found in the page tables, of ``size`` bytes."""

    virtual: int
    physical: int
    size: int
    executable: bool


@dataclasses.dataclass(frozen=True, slots=True)
class PageTables:
    """The tables of the kernel's addresses, which are the highest of all.

    :param root: physical address of the top table.
    :param address_bits: of what the top table covers: the highest 2^n virtual addresses.
    :param page_bits: of the smallest page, which is as big as a table.
    """

    root: int
    address_bits: int
    decode: Decoder
    page_bits: int = 12

    @property
    def levels(self) -> int:
        """Tables from the top to a page."""
        return -(-(self.address_bits - self.page_bits) // (self.page_bits - 3))

    def _shift(self, level: int) -> int:
        return self.page_bits + level * (self.page_bits - 3)

    def _count(self, level: int) -> int:
        """Entries of a table; the top one may be smaller than the others."""
        return 1 << min(self.page_bits - 3, self.address_bits - self._shift(level))

    def physical(self, address: int, read: Reader) -> int:
        """The physical address; raises :class:`UnreadableError`."""
        if not ADDRESSES - (1 << self.address_bits) <= address < ADDRESSES:
            raise UnreadableError(f"{address:#x} is no address of a kernel")
        table = self.root
        for level in range(self.levels - 1, -1, -1):
            shift = self._shift(level)
            place = table + _ENTRY * ((address >> shift) & (self._count(level) - 1))
            entry = self.decode(int.from_bytes(read(place, _ENTRY), "little"), level)
            if entry is None:
                break
            if entry.leaf:
                return _inside(entry, shift, address)
            table = entry.address
        raise UnreadableError(f"{address:#x} is not mapped")

    def sweep(self, start: int, end: int, read: Reader) -> Iterator[MappedPage]:
        """All mappings in ``start``..``end``, ascending; unreadable tables are skipped."""
        first = ADDRESSES - (1 << self.address_bits)
        top = Entry(self.root, leaf=False, executable=True)
        yield from self._sweep(top, self.levels - 1, (max(start, first), end), first, read)

    def _sweep(
        self, table: Entry, level: int, bounds: tuple[int, int], first: int, read: Reader
    ) -> Iterator[MappedPage]:
        """Of a table whose first entry is for the address ``first``."""
        shift, count = self._shift(level), self._count(level)
        try:
            entries = np.frombuffer(read(table.address, _ENTRY * count), "<u8")
        except UnreadableError:
            return
        low = max(0, (bounds[0] - first) >> shift)
        high = min(count, -(-(bounds[1] - first) >> shift))
        for row in np.flatnonzero(entries[low:high]).tolist():
            virtual = first + ((low + row) << shift)
            entry = self.decode(int(entries[low + row]), level)
            if entry is None:
                continue
            executable = entry.executable and table.executable
            if entry.leaf:
                yield MappedPage(virtual, _inside(entry, shift, virtual), 1 << shift, executable)
            else:
                below = entry._replace(executable=executable)
                yield from self._sweep(below, level - 1, bounds, virtual, read)


def _inside(entry: Entry, shift: int, address: int) -> int:
    """Where an address lies in the memory that a leaf maps."""
    inside = (1 << max(shift, entry.span)) - 1
    return entry.address & ~inside | address & inside
