# SPDX-License-Identifier: GPL-2.0-or-later
"""What is special to x86-64: address space layout and page tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Final

from sysqcache.guestmap.pagetable import Entry, PageTables
from sysqcache.guestmap.space import AddressSpace, kernel_tables, told
from sysqcache.guestmap.vmcoreinfo import VmcoreInfo

KERNEL_MAP: Final = 0xFFFF_FFFF_8000_0000
"""Start of the kernel image's mapping (``__START_KERNEL_map``)."""

MODULES_END: Final = 0xFFFF_FFFF_FF00_0000
# where struct page begins without CONFIG_RANDOMIZE_MEMORY, with 4 and 5 levels of tables
VMEMMAP_BASE: Final = 0xFFFF_EA00_0000_0000
VMEMMAP_BASE_5: Final = 0xFFD4_0000_0000_0000
_DIRECT_BYTES: Final = 1 << 40
"""The least that KASLR leaves for it before other areas begin; beyond, page tables tell."""

_PRESENT: Final = 1
_LARGE: Final = 1 << 7
_NO_EXECUTE: Final = 1 << 63
_ADDRESS: Final = 0x000F_FFFF_FFFF_F000
_IMAGE_BYTES: Final = 1 << 30


class X86Space(AddressSpace):
    """The direct mapping and the array of struct page lie where two variables say."""

    variables: ClassVar[tuple[str, ...]] = ("page_offset_base", "vmemmap_base")

    def use_variables(self, symbols: Mapping[str, int], u64: Callable[[int], int]) -> None:
        """Learn where the big areas of the address space begin.

        A kernel that does not move its areas about has no variables for them, and one may
        hide them. Nothing is taken for the direct mapping then: page tables tell all.
        """
        direct, vmemmap = symbols.get("page_offset_base"), symbols.get("vmemmap_base")
        default = VMEMMAP_BASE_5 if self.tables.levels == 5 else VMEMMAP_BASE
        self.vmemmap_base = u64(vmemmap) if vmemmap else default
        if direct:
            base = u64(direct)
            self.direct, self.direct_offset = (base, base + _DIRECT_BYTES), base


def decode(value: int, level: int) -> Entry | None:
    """An entry of a page table."""
    if not value & _PRESENT:
        return None
    leaf = level == 0 or bool(value & _LARGE and level < 3)
    return Entry(value & _ADDRESS, leaf, not value & _NO_EXECUTE)


def x86_space(info: VmcoreInfo) -> X86Space:
    """From what the kernel tells; raises :class:`.memory.UnreadableError` when it lacks."""
    offset = KERNEL_MAP - told(info.numbers, "phys_base")
    bits = 57 if info.numbers.get("pgtable_l5_enabled") else 48
    size = min(info.numbers.get("KERNEL_IMAGE_SIZE", _IMAGE_BYTES), _IMAGE_BYTES)
    return X86Space(
        PageTables(kernel_tables(info, offset) & _ADDRESS, bits, decode),
        image=(KERNEL_MAP, KERNEL_MAP + size),
        image_offset=offset,
        modules=(KERNEL_MAP + size, MODULES_END),
    )
