# SPDX-License-Identifier: GPL-2.0-or-later
"""The file that QEMU loads: ``kernel.S`` and a program, with page tables of its own.

Addresses of the guest, all that snippets can reach:

| from | to | |
|---|---|---|
| 0 | 64 KiB | the arena: eight pages of data, found again and again |
| 512 KiB | 528 KiB | the stack, four pages |
| 1 MiB | 1 MiB + 4 KiB | the kernel's start, for its own use |
| 2 MiB | 64 MiB | code of 32 and 16 bits, and of 64 unless it lies high |
| 64 MiB | 4 GiB | the arena |
| -4 GiB | -2 MiB | the arena, and code of 64 bits that lies high |

Code can't be written to, and nothing else runs. So almost every number is the address of some data,
and every far jump ends in a fault that tells where it went.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from random import Random
from typing import Final

from bench.moving_programs.layout import PAGE, TRAP_BYTE, Unit, code_of
from bench.moving_programs.snippets import Snippet

LOAD: Final = 0x100000
PROGRAM: Final = 0x110000
"""Both as in ``kernel.S``."""

MEMORY_MIB: Final = 64
RESULT: Final = struct.Struct("<IIQQQQQQQ")
_ENTRY: Final = struct.Struct("<QIHHQII")
_HEADER: Final = struct.Struct("<10Q")

_WINDOW_PAGES, _STACK_PAGES = 8, 4
_STACK: Final = 0x80000
_KERNEL: Final = 0x400000000000

_PRESENT, _WRITE, _USER, _LARGE, _NX = 1, 2, 4, 0x80, 1 << 63
_TABLE: Final = _PRESENT | _WRITE | _USER
_DATA: Final = _PRESENT | _WRITE | _USER | _NX
_CODE: Final = _PRESENT | _USER
_GIB: Final = 1 << 30
_LARGE_PAGE: Final = 2 << 20
_ALIASED_FROM: Final = 64 << 20
_REGISTER_SETS: Final = 16


class SecondPage(Enum):
    """What lies behind the first page of a unit."""

    OWN = "its own second page"
    NONE = "no page"
    TRAPS = "a page of traps"


@dataclass(frozen=True)
class Place:
    """Units of code and where they lie.

    :param base: guest virtual address of the first.
    """

    units: Sequence[Unit]
    base: int
    second: SecondPage = SecondPage.OWN


@dataclass(frozen=True)
class Program:
    """What runs behind the kernel.

    :param image: its bytes, from PROGRAM on.
    :param results: physical address of what the snippets leave.
    :param code: the physical addresses between which all code lies.
    :param addresses: guest virtual address of each snippet.
    :param sequence: the numbers of the snippets in the order in which they run.
    """

    image: bytes
    results: int
    code: tuple[int, int]
    addresses: Sequence[int]
    sequence: Sequence[int]
    snippets: Sequence[Snippet]
    values: Sequence[Sequence[int]]

    @property
    def count(self) -> int:
        """How many snippets there are."""
        return len(self.snippets)


@dataclass(frozen=True)
class Control:
    """Bits of control registers that are set besides those that every program needs."""

    cr0: int = 0
    cr4: int = 0


class Memory:
    """Pages from PROGRAM on."""

    def __init__(self) -> None:
        self.bytes = bytearray()

    def allocate(self, pages: int) -> int:
        """Physical address of so many pages of zeros."""
        address = PROGRAM + len(self.bytes)
        self.bytes += bytes(pages * PAGE)
        return address

    def put(self, address: int, data: bytes) -> None:
        """Write."""
        start = address - PROGRAM
        self.bytes[start : start + len(data)] = data

    def allocated(self, data: bytes) -> int:
        """Physical address of pages that begin with ``data``."""
        address = self.allocate(-(-len(data) // PAGE))
        self.put(address, data)
        return address


class PageTables:
    """Four levels of tables that grow as pages are mapped."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.root = memory.allocate(1)

    def map(self, virtual: int, physical: int, flags: int) -> None:
        """One page of 4 KiB."""
        self._set(self._table(virtual, 12), virtual >> 12, physical | flags)

    def map_large(self, virtual: int, physical: int, flags: int) -> None:
        """One page of 2 MiB."""
        self._set(self._table(virtual, 21), virtual >> 21, physical | flags | _LARGE)

    def share(self, virtual: int, table: int) -> None:
        """Let a table describe the 2 MiB from ``virtual`` on, unless there is one."""
        directory = self._table(virtual, 21)
        if not self._get(directory, virtual >> 21):
            self._set(directory, virtual >> 21, table | _TABLE)

    def _table(self, virtual: int, shift: int) -> int:
        """The table that has the entries of ``1 << shift`` bytes for this address."""
        table = self.root
        for level in range(39, shift, -9):
            entry = self._get(table, virtual >> level)
            if not entry:
                entry = self._memory.allocate(1) | _TABLE
                self._set(table, virtual >> level, entry)
            table = entry & -PAGE & ~_NX
        return table

    def _get(self, table: int, index: int) -> int:
        start = table - PROGRAM + 8 * (index & 511)
        return int.from_bytes(self._memory.bytes[start : start + 8], "little")

    def _set(self, table: int, index: int, entry: int) -> None:
        self._memory.put(table + 8 * (index & 511), entry.to_bytes(8, "little"))


def build(
    snippets: Sequence[Snippet],
    values: Sequence[Sequence[int]],
    places: Sequence[Place],
    *,
    data: int,
    order: int,
    sequence: Sequence[int] | None = None,
    control: Control = Control(),
) -> Program:
    """The program that runs all snippets of ``places``.

    :param data: a seed for what memory and registers hold.
    :param order: a seed for which page of code lies where in memory.
    :param sequence: the order in which they run; none: that of their numbers.
    """
    if sequence is None:
        sequence = range(len(snippets))
    random = Random(data)
    memory = Memory()
    header = memory.allocate(1)
    tables = PageTables(memory)
    size = (_WINDOW_PAGES + _STACK_PAGES) * PAGE
    pristine = memory.allocated(random.randbytes(size))
    arena = memory.allocate(_WINDOW_PAGES + _STACK_PAGES)
    registers = memory.allocated(_register_sets(random))
    xsave = memory.allocated(_xsave_image(random))
    results = memory.allocate(-(-len(snippets) * RESULT.size // PAGE))
    code = _Code.lay(memory, tables, places, Random(order))
    addresses = code.fill(memory, snippets, values)
    _map_rest(memory, tables, arena, random)
    entries = memory.allocated(
        b"".join(_entry(snippets[i], addresses[i], registers) for i in sequence)
    )
    numbers = (tables.root, len(snippets), entries, results, pristine, arena, size, xsave)
    memory.put(header, _HEADER.pack(*numbers, control.cr0, control.cr4))
    assert PROGRAM + len(memory.bytes) < MEMORY_MIB << 20
    return Program(
        bytes(memory.bytes), results, code.range(), addresses, sequence, snippets, values
    )


@dataclass(frozen=True)
class _Code:
    """Units of code with their virtual address and their physical pages."""

    units: Sequence[tuple[Unit, int, Sequence[int]]]

    @classmethod
    def lay(
        cls, memory: Memory, tables: PageTables, places: Sequence[Place], order: Random
    ) -> _Code:
        """Take pages for all units, in any order, and map them."""
        traps = memory.allocated(bytes([TRAP_BYTE]) * PAGE)
        count = sum(unit.pages for place in places for unit in place.units)
        start = memory.allocate(count)
        pages = [start + PAGE * i for i in range(count)]
        order.shuffle(pages)
        found = []
        for place in places:
            address = place.base
            for unit in place.units:
                own = [pages.pop() for _ in range(unit.pages)]
                seen = {
                    SecondPage.OWN: own,
                    SecondPage.NONE: own[:1],
                    SecondPage.TRAPS: [own[0], *(traps for _ in own[1:])],
                }
                for i, page in enumerate(seen[place.second]):
                    tables.map(address + PAGE * i, page, _CODE)
                found.append((unit, address, own))
                address += PAGE * unit.pages
        return cls(found)

    def fill(
        self,
        memory: Memory,
        snippets: Sequence[Snippet],
        values: Sequence[Sequence[int]],
    ) -> list[int]:
        """Write the code; the virtual address of each snippet."""
        addresses = [0] * len(snippets)
        for unit, address, pages in self.units:
            code = code_of(unit, snippets, values)
            for i, page in enumerate(pages):
                memory.put(page, code[i * PAGE : (i + 1) * PAGE])
            for number, offset in unit.places:
                addresses[number] = address + offset
        return addresses

    def range(self) -> tuple[int, int]:
        """The physical addresses between which all of it lies."""
        pages = [page for _, _, own in self.units for page in own]
        return min(pages), max(pages) + PAGE


def _map_rest(memory: Memory, tables: PageTables, arena: int, random: Random) -> None:
    for i in range(16):
        tables.map(PAGE * i, arena + PAGE * (i % _WINDOW_PAGES), _DATA)
    for i in range(_STACK_PAGES):
        tables.map(_STACK + PAGE * i, arena + PAGE * (_WINDOW_PAGES + i), _DATA)
    tables.map(LOAD, LOAD, _PRESENT)
    for address in range(0, MEMORY_MIB << 20, _LARGE_PAGE):
        tables.map_large(_KERNEL + address, address, _PRESENT | _WRITE)
    aliases = [_alias_table(memory, arena, random) for _ in range(4)]
    for address in range(-4 * _GIB, 4 * _GIB, _LARGE_PAGE):
        # plain QEMU 10.0 aborts (access_ptr()) when FXSAVE or XSAVE go across the end of addresses
        if not -_LARGE_PAGE <= address < _ALIASED_FROM:
            tables.share(address & (1 << 48) - 1, random.choice(aliases))


def _alias_table(memory: Memory, arena: int, random: Random) -> int:
    """A table of 512 pages that are all pages of the arena."""
    pages = [arena + PAGE * random.randrange(_WINDOW_PAGES) for _ in range(512)]
    return memory.allocated(b"".join((page | _DATA).to_bytes(8, "little") for page in pages))


def _entry(snippet: Snippet, address: int, registers: int) -> bytes:
    mode = snippet.mode
    base = address & ~0xFFFF if mode.bits == 16 else 0
    wide = 0 if mode.bits == 64 else 1 if mode.bits == 32 else 2
    which = wide * _REGISTER_SETS + snippet.registers % _REGISTER_SETS
    return _ENTRY.pack(
        (address - base) & (1 << 64) - 1,
        snippet.flags,
        mode.cs,
        mode.ss,
        registers + 128 * which,
        base,
        0,
    )


def _register_sets(random: Random) -> bytes:
    """Of 64-bit, of 32-bit and of 16-bit code, each in the order of the registers' numbers."""
    found = bytearray()
    for make, stack in ((_register64, _STACK + 0x2000), (_register32, _STACK + 0x2000),
                        (_register16, 0x2000)):  # fmt: skip
        for _ in range(_REGISTER_SETS):
            values = [make(random) for _ in range(16)]
            # a count, for what has one
            values[1] = random.choice((0, 1, 2, 3, 5, values[1]))
            values[4] = stack
            found += struct.pack("<16Q", *(value & (1 << 64) - 1 for value in values))
    return bytes(found)


def _register64(random: Random) -> int:
    """Something that is an address of data, by itself or with a large displacement."""
    choice = random.random()
    if choice < 0.3:
        return random.randrange(_ALIASED_FROM, 4 * _GIB) & -64
    if choice < 0.55:
        return -random.randrange(_ALIASED_FROM, 4 * _GIB) & -64
    if choice < 0.8:
        return random.randrange(0, 1 << 16) & -64
    return random.getrandbits(64)


def _register32(random: Random) -> int:
    choice = random.random()
    if choice < 0.5:
        return random.randrange(_ALIASED_FROM, 4 * _GIB) & -64
    if choice < 0.8:
        return random.randrange(0, 1 << 16) & -64
    return random.getrandbits(32)


def _register16(random: Random) -> int:
    return random.randrange(0, 1 << 16) & -16


def _xsave_image(random: Random) -> bytes:
    """x87, SSE and AVX registers as XRSTOR takes them."""
    image = bytearray(1088)
    # FCW, tags of four registers that are in use, MXCSR
    struct.pack_into("<HHB", image, 0, 0x37F, 0, 0x0F)
    struct.pack_into("<II", image, 24, 0x1F80, 0xFFFF)
    for i in range(8):
        mantissa = 1 << 63 | random.getrandbits(63)
        struct.pack_into("<QH", image, 32 + 16 * i, mantissa, 0x3FFF + random.randint(-20, 20))
    for i in range(16):
        # some hold small numbers, which do as indexes
        small = i % 2
        lanes = [random.getrandbits(8 if small else 32) for _ in range(8)]
        struct.pack_into("<4I", image, 160 + 16 * i, *lanes[:4])
        struct.pack_into("<4I", image, 576 + 16 * i, *lanes[4:])
    struct.pack_into("<Q", image, 512, 7)
    return bytes(image)


def write(path: Path, kernel: Path, program: Program) -> None:
    """The file for ``-kernel``."""
    data = kernel.read_bytes()
    assert len(data) <= PROGRAM - LOAD
    path.write_bytes(data.ljust(PROGRAM - LOAD, b"\0") + program.image)
