# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel's address space: all that the walks ask about the guest's architecture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Final

from sysqcache.guestmap.memory import UnknownShapeError
from sysqcache.guestmap.pagetable import ADDRESSES, MappedPage, PageTables, Reader
from sysqcache.guestmap.vmcoreinfo import VmcoreInfo

_IMAGE_BYTES: Final = 1 << 30
"""No kernel is larger."""


@dataclasses.dataclass(slots=True)
class AddressSpace:
    """Kernel virtual addresses of one guest; each architecture has a function that makes one.

    All areas are (start, end).

    :param image: where the kernel's image may lie.
    :param image_offset: virtual minus physical address of all of the image.
    :param image_start: virtual address of the image's first byte; 0 where that is ``_text``.
    :param modules: the area for kernel modules, BPF and other generated code. The image
        may lie in it.
    :param direct: the mapping of all memory, where nearly all structures lie, and which
        needs no walk; empty while it is not known.
    :param direct_offset: virtual minus physical address there.
    :param vmemmap_base: where the struct page of the physical address 0 would be.
    """

    variables: ClassVar[tuple[str, ...]] = ()
    """Exported variables that :meth:`use_variables` reads."""

    tables: PageTables
    image: tuple[int, int]
    image_offset: int
    modules: tuple[int, int]
    direct: tuple[int, int] = (0, 0)
    direct_offset: int = 0
    vmemmap_base: int = 0
    image_start: int = 0

    def use_variables(self, symbols: Mapping[str, int], u64: Callable[[int], int]) -> None:
        """Learn what VMCOREINFO does not tell.

        ``symbols`` are addresses by name, ``u64`` reads a number at such an address.
        """

    @property
    def page_bits(self) -> int:
        """Of the kernel's pages, those that struct page and files count in."""
        return self.tables.page_bits

    def image_physical(self, address: int) -> int:
        """The physical address of an address inside the kernel image."""
        return (address - self.image_offset) % ADDRESSES

    def is_image(self, start: int, end: int) -> bool:
        """True when a kernel image can lie there."""
        return self.image[0] <= start < end <= min(self.image[1], start + _IMAGE_BYTES)

    def physical(self, address: int, read: Reader) -> int:
        """The physical address; raises :class:`UnreadableError`."""
        if self.direct[0] <= address < self.direct[1]:
            return (address - self.direct_offset) % ADDRESSES
        return self.tables.physical(address, read)

    def sweep(self, start: int, end: int, read: Reader) -> Iterator[MappedPage]:
        """All mappings in ``start``..``end``, ascending; unreadable tables are skipped."""
        return self.tables.sweep(start, end, read)


def kernel_tables(info: VmcoreInfo, image_offset: int) -> int:
    """Physical address of the kernel's top page table, which lies in the image."""
    return (told(info.symbols, "swapper_pg_dir") - image_offset) % ADDRESSES


def told(part: Mapping[str, int], name: str) -> int:
    """What VMCOREINFO says, as an unsigned number; raises :class:`UnreadableError`."""
    try:
        return part[name] % ADDRESSES
    except KeyError:
        raise UnknownShapeError(f"VMCOREINFO has no '{name}'") from None
