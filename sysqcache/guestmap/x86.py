# SPDX-License-Identifier: GPL-2.0-or-later
"""What is special to x86-64: address space layout and page tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from sysqcache.guestmap.memory import UnreadableError
from sysqcache.guestmap.vmcoreinfo import VmcoreInfo

KERNEL_MAP: Final = 0xFFFF_FFFF_8000_0000
"""Start of the kernel image's mapping (``__START_KERNEL_map``)."""

EXPORTS: Final = ("page_offset_base", "vmemmap_base")
"""Exported variables that :meth:`X86Translation.use_variables` reads."""

MODULES_END: Final = 0xFFFF_FFFF_FF00_0000
# without CONFIG_RANDOMIZE_MEMORY these are constants instead of variables
DIRECT_BASE: Final = 0xFFFF_8880_0000_0000
DIRECT_BASE_5: Final = 0xFF11_0000_0000_0000
VMEMMAP_BASE: Final = 0xFFFF_EA00_0000_0000
VMEMMAP_BASE_5: Final = 0xFFD4_0000_0000_0000
_DIRECT_BYTES: Final = 1 << 46
_PRESENT: Final = 1
_LARGE: Final = 1 << 7
_NO_EXECUTE: Final = 1 << 63
_ADDRESS: Final = 0x000F_FFFF_FFFF_F000
_IMAGE_BYTES: Final = 1 << 30

Reader = Callable[[int, int], bytes]


@dataclasses.dataclass(frozen=True, slots=True)
class MappedPage:
    """A mapping found in the page tables; ``size`` is 4 KiB, 2 MiB or 1 GiB."""

    virtual: int
    physical: int
    size: int
    executable: bool


@dataclasses.dataclass(slots=True)
class X86Translation:
    """Kernel virtual addresses of one guest.

    ``root`` is the physical address of the top page table, ``levels`` 4 or 5. The
    direct mapping, where nearly all structures lie, needs no walk once
    ``direct_base`` is known; 0 until then, as is ``vmemmap_base``, the address of the
    array of struct page.
    """

    root: int
    levels: int
    phys_base: int
    image_size: int
    direct_base: int = 0
    vmemmap_base: int = 0

    @classmethod
    def from_vmcoreinfo(cls, info: VmcoreInfo) -> X86Translation:
        """From what the kernel tells; raises :class:`UnreadableError` when it lacks."""
        try:
            phys_base = info.numbers["phys_base"]
            root = info.symbols["swapper_pg_dir"] - KERNEL_MAP + phys_base
        except KeyError as missing:
            raise UnreadableError(f"VMCOREINFO has no {missing}") from None
        levels = 5 if info.numbers.get("pgtable_l5_enabled") else 4
        size = min(info.numbers.get("KERNEL_IMAGE_SIZE", _IMAGE_BYTES), _IMAGE_BYTES)
        return cls(root & _ADDRESS, levels, phys_base, size)

    def use_variables(self, symbols: Mapping[str, int], u64: Callable[[int], int]) -> None:
        """Learn where the big areas of the address space begin.

        ``symbols`` are addresses by name, ``u64`` reads a number at such an address. A
        kernel that does not move its areas about has no variables for them.
        """
        five = self.levels == 5
        direct, vmemmap = symbols.get("page_offset_base"), symbols.get("vmemmap_base")
        direct_default = DIRECT_BASE_5 if five else DIRECT_BASE
        vmemmap_default = VMEMMAP_BASE_5 if five else VMEMMAP_BASE
        self.vmemmap_base = u64(vmemmap) if vmemmap else vmemmap_default
        self.direct_base = u64(direct) if direct else direct_default

    @property
    def modules(self) -> tuple[int, int]:
        """Start and end of the area for kernel modules, BPF and other generated code."""
        return KERNEL_MAP + self.image_size, MODULES_END

    @property
    def image(self) -> tuple[int, int]:
        """Start and end of the area in which the kernel image lies."""
        return KERNEL_MAP, KERNEL_MAP + self.image_size

    def image_physical(self, address: int) -> int:
        """The physical address of an address inside the kernel image."""
        return address - KERNEL_MAP + self.phys_base

    def is_image(self, start: int, end: int) -> bool:
        """True when a kernel image can lie there."""
        return KERNEL_MAP <= start < end <= KERNEL_MAP + _IMAGE_BYTES

    def physical(self, address: int, read: Reader) -> int:
        """The physical address; raises :class:`UnreadableError`."""
        distance = address - self.direct_base
        if self.direct_base and 0 <= distance < _DIRECT_BYTES:
            return distance
        if not 0 <= address < 1 << 64:
            raise UnreadableError(f"{address:#x} is no address")
        table = self.root
        for level in range(self.levels - 1, -1, -1):
            shift = 12 + 9 * level
            entry = _entry(read, table, (address >> shift) & 511)
            if not entry & _PRESENT:
                break
            if level == 0 or (entry & _LARGE and level < 3):
                base = entry & _ADDRESS & ~((1 << shift) - 1)
                return base | (address & ((1 << shift) - 1))
            table = entry & _ADDRESS
        raise UnreadableError(f"{address:#x} is not mapped")

    def sweep(self, start: int, end: int, read: Reader) -> Iterator[MappedPage]:
        """All mappings in ``start``..``end``, ascending; unreadable tables are skipped."""
        yield from self._sweep(self.root, self.levels - 1, (start, end), -1, read)

    def _sweep(
        self, table: int, level: int, bounds: tuple[int, int], prefix: int, read: Reader
    ) -> Iterator[MappedPage]:
        start, end = bounds
        shift = 12 + 9 * level
        try:
            entries = read(table, 4096)
        except UnreadableError:
            return
        for i in range(512):
            # addresses of the kernel half: all bits above the top table's are ones
            virtual = (prefix if prefix >= 0 else _upper(shift)) + (i << shift)
            if virtual + (1 << shift) <= start or virtual >= end:
                continue
            entry = int.from_bytes(entries[8 * i : 8 * i + 8], "little")
            if not entry & _PRESENT:
                continue
            if level == 0 or (entry & _LARGE and level < 3):
                base = entry & _ADDRESS & ~((1 << shift) - 1)
                yield MappedPage(virtual, base, 1 << shift, not entry & _NO_EXECUTE)
            else:
                yield from self._sweep(entry & _ADDRESS, level - 1, bounds, virtual, read)


def _upper(shift: int) -> int:
    """What to add to an index of the top table so that its upper half is canonical."""
    return (1 << 64) - (1 << (shift + 9))


def _entry(read: Reader, table: int, index: int) -> int:
    return int.from_bytes(read(table + 8 * index, 8), "little")
