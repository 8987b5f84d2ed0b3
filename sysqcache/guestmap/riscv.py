# SPDX-License-Identifier: GPL-2.0-or-later
"""What is special to 64-bit RISC-V: address space layout and page tables.

Sv39, Sv48 and Sv57, which the kernel chooses when it starts, by what the processor has.
It tells in VMCOREINFO where its areas lie: arch/riscv/kernel/vmcore_info.c and
arch/riscv/include/asm/pgtable-64.h of the kernel.
"""

from __future__ import annotations

from typing import Final

from sysqcache.guestmap.memory import UnreadableError
from sysqcache.guestmap.pagetable import ADDRESSES, Entry, PageTables
from sysqcache.guestmap.space import AddressSpace, kernel_tables, told
from sysqcache.guestmap.vmcoreinfo import VmcoreInfo

_VALID: Final = 1
_READ_WRITE_EXECUTE: Final = 14
_EXECUTE: Final = 8
_PAGE_NUMBER: Final = (1 << 44) - 1
_TOGETHER: Final = 1 << 63
"""Svnapot: sixteen entries for 64 KiB."""

_TOGETHER_BITS: Final = 16
_BITS: Final = (39, 48, 57)


def riscv_space(info: VmcoreInfo) -> AddressSpace:
    """From what the kernel tells; raises :class:`UnreadableError` when it lacks."""
    numbers = info.numbers
    bits = told(numbers, "VA_BITS")
    if bits not in _BITS:
        raise UnreadableError("VMCOREINFO has no page tables that make sense")
    offset = told(numbers, "va_kernel_pa_offset")
    modules = told(numbers, "MODULES_VADDR"), told(numbers, "MODULES_END")
    memory_start, direct_start = told(numbers, "phys_ram_base"), told(numbers, "PAGE_OFFSET")
    image_start = told(numbers, "KERNEL_LINK_ADDR") + info.kaslr_offset
    return AddressSpace(
        PageTables(kernel_tables(info, offset), bits, decode),
        image=(told(numbers, "KERNEL_LINK_ADDR"), ADDRESSES),
        image_offset=offset,
        modules=modules,
        direct=(direct_start, min(direct_start + (1 << (bits - 2)), modules[0])),
        direct_offset=direct_start - memory_start,
        vmemmap_base=told(info.symbols, "vmemmap"),
        # _start, which is some KiB before _text
        image_start=image_start,
    )


def decode(value: int, level: int) -> Entry | None:
    """An entry of a page table."""
    if not value & _VALID:
        return None
    leaf = bool(value & _READ_WRITE_EXECUTE)
    if level == 0 and not leaf:
        return None
    address = (value >> 10 & _PAGE_NUMBER) << 12
    span = _TOGETHER_BITS if leaf and level == 0 and value & _TOGETHER else 0
    return Entry(address, leaf, not leaf or bool(value & _EXECUTE), span)
