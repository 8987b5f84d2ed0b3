# SPDX-License-Identifier: GPL-2.0-or-later
"""What is special to arm64: address space layout and page tables.

Pages of 4, 16 and 64 KiB, addresses of 36 to 52 bits. The kernel tells in VMCOREINFO
where its areas lie: arch/arm64/kernel/crash_core.c (vmcore_info.c since 6.9),
arch/arm64/include/asm/memory.h and pgtable-hwdef.h of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sysqcache.guestmap.memory import UnreadableError
from sysqcache.guestmap.pagetable import ADDRESSES, Decoder, Entry, PageTables
from sysqcache.guestmap.space import AddressSpace, kernel_tables, told
from sysqcache.guestmap.vmcoreinfo import VmcoreInfo

_VALID: Final = 1
_TABLE: Final = 2
"""A table, or on the lowest level a page; without this bit an entry is a block."""

_NO_EXECUTE: Final = 1 << 53
_NO_EXECUTE_BELOW: Final = 1 << 59
_PAGE_BITS: Final = {4096: 12, 16384: 14, 65536: 16}
_BITS: Final = range(36, 53)


def arm64_space(info: VmcoreInfo) -> AddressSpace:
    """From what the kernel tells; raises :class:`UnreadableError` when it lacks."""
    numbers = info.numbers
    page_bits = _PAGE_BITS.get(info.page_size, 0)
    built_for = told(numbers, "VA_BITS")
    in_use = 64 - numbers.get("TCR_EL1_T1SZ", 64 - built_for)
    # of 64 KiB pages the top table is always that for 52 bits, of which a processor that
    # has 48 uses the end; of smaller pages a whole level is left out
    bits = built_for if page_bits == 16 else in_use
    if not page_bits or bits not in _BITS or built_for not in _BITS:
        raise UnreadableError("VMCOREINFO has no page tables that make sense")
    offset = told(numbers, "kimage_voffset")
    code = told(numbers, "MODULES_VADDR"), told(numbers, "VMALLOC_END")
    memory_start = told(numbers, "PHYS_OFFSET")
    direct_start = ADDRESSES - (1 << built_for)
    return AddressSpace(
        PageTables(kernel_tables(info, offset), bits, decoder(page_bits, bits), page_bits),
        image=code,
        image_offset=offset,
        # code is generated, and since 6.5 modules too may lie, wherever there is room
        modules=code,
        direct=(direct_start, code[0]),
        direct_offset=direct_start - memory_start,
        vmemmap_base=_vmemmap_base(info, memory_start, page_bits),
        # kallsyms begin at _stext, 64 KiB behind _text
        image_start=told(numbers, "MODULES_END") + info.kaslr_offset,
    )


def _vmemmap_base(info: VmcoreInfo, memory_start: int, page_bits: int) -> int:
    """The start of memory is negative on a 48-bit processor if the kernel could use 52."""
    start = memory_start - (ADDRESSES if memory_start >> 63 else 0)
    first = (start >> page_bits) * told(info.sizes, "page")
    return (told(info.numbers, "VMEMMAP_START") - first) % ADDRESSES


def decoder(page_bits: int, address_bits: int) -> Decoder:
    """The function for entries of one format.

    Addresses of up to 48 bits lie in the entry as they are. The four bits above are in
    its bits 12-15 if pages are of 64 KiB; with smaller pages and tables for 52 bits,
    two are above the others and two in bits 8 and 9.
    """
    wide = page_bits < 16 and address_bits > 48
    kept = ((1 << (50 if wide else 48)) - 1) & -(1 << page_bits)

    def address(value: int) -> int:
        if page_bits == 16:
            return value & kept | (value >> 12 & 15) << 48
        return value & kept | (value >> 8 & 3) << 50 if wide else value & kept

    return _decoder(address)


def _decoder(address: Callable[[int], int]) -> Decoder:
    def decode(value: int, level: int) -> Entry | None:
        if not value & _VALID or (level == 0 and not value & _TABLE):
            return None
        leaf = level == 0 or not value & _TABLE
        forbids = _NO_EXECUTE if leaf else _NO_EXECUTE_BELOW
        return Entry(address(value), leaf, not value & forbids)

    return decode
