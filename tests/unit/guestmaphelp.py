# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's memory made by hand: pages, structures, types."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from sysqcache.guestmap.guest import Guest
from sysqcache.guestmap.layout import KernelLayout
from sysqcache.guestmap.memory import PAGE, Budget, GuestMemory, UnreadableError
from sysqcache.guestmap.symbols import Symbols
from sysqcache.guestmap.vmcoreinfo import VmcoreInfo
from sysqcache.guestmap.x86 import KERNEL_MAP, X86Space, x86_space

DIRECT_BASE = 0xFFFF_8880_0000_0000
"""Where the direct mapping begins."""


class FakeMemory:
    """Guest-physical memory of whole pages; all others are holes."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.reads = 0

    def write(self, address: int, data: bytes) -> None:
        while data:
            page = self.pages.setdefault(address & -PAGE, bytearray(PAGE))
            place = address % PAGE
            piece = data[: PAGE - place]
            page[place : place + len(piece)] = piece
            address, data = address + len(piece), data[len(piece) :]

    def u64(self, address: int, *values: int) -> None:
        self.write(address, struct.pack(f"<{len(values)}Q", *values))

    def read_physical(self, address: int, size: int) -> bytes:
        self.reads += 1
        out = b""
        while size > 0:
            page = self.pages.get(address & -PAGE)
            if page is None:
                raise UnreadableError(f"hole at {address:#x}")
            piece = bytes(page[address % PAGE :][:size])
            out += piece
            address += len(piece)
            size -= len(piece)
        return out


def virtual(physical: int) -> int:
    """Where the kernel sees a physical address."""
    return DIRECT_BASE + physical


def fake_x86(root: int, phys_base: int = 0) -> X86Space:
    """An address space with a top page table at a physical address."""
    numbers = {"phys_base": phys_base}
    symbols = {"swapper_pg_dir": KERNEL_MAP + root - phys_base}
    return x86_space(VmcoreInfo("", "", 0, symbols, numbers, {}, b""))


def fake_guest(
    memory: FakeMemory,
    *,
    offsets: Mapping[str, int] | None = None,
    sizes: Mapping[str, int] | None = None,
    enums: Mapping[str, int] | None = None,
    symbols: Mapping[str, int] | None = None,
    numbers: Mapping[str, int] | None = None,
    budget: Budget | None = None,
) -> Guest:
    """A guest whose kernel addresses are all in the direct mapping."""
    translation = fake_x86(0)
    translation.use_variables({"page_offset_base": 1}, lambda address: DIRECT_BASE)
    info = VmcoreInfo("6.1.0-fake", "ab" * 20, 0, {}, numbers or {}, {}, b"")
    layout = KernelLayout(offsets or {}, sizes or {}, enums or {})
    guest_memory = GuestMemory(memory, translation, budget)
    return Guest(guest_memory, translation, info, Symbols(symbols or {}), layout)


class BtfBuilder:
    """BTF data, type by type; each method gives the id of its type."""

    def __init__(self) -> None:
        self._types: list[bytes] = []
        self._text = b"\0"

    def name(self, text: str) -> int:
        if not text:
            return 0
        place = len(self._text)
        self._text += text.encode() + b"\0"
        return place

    def add(self, kind: int, name: str, size: int, extra: bytes = b"", *, vlen: int = 0,
            flag: bool = False) -> int:  # fmt: skip
        info = kind << 24 | vlen | int(flag) << 31
        self._types.append(struct.pack("<III", self.name(name), info, size) + extra)
        return len(self._types)

    def integer(self, name: str, size: int) -> int:
        return self.add(1, name, size, struct.pack("<I", size * 8))

    def pointer(self, to: int) -> int:
        return self.add(2, "", to)

    def array(self, element: int, length: int) -> int:
        return self.add(3, "", 0, struct.pack("<III", element, 1, length))

    def compound(self, name: str, size: int, members: Iterable[tuple[str, int, int]],
               *, kind: int = 4) -> int:  # fmt: skip
        rows = [struct.pack("<III", self.name(n), t, bits) for n, t, bits in members]
        return self.add(kind, name, size, b"".join(rows), vlen=len(rows))

    def enum(self, name: str, values: Mapping[str, int]) -> int:
        rows = [struct.pack("<Ii", self.name(n), value) for n, value in values.items()]
        flag = any(value < 0 for value in values.values())
        return self.add(6, name, 4, b"".join(rows), vlen=len(rows), flag=flag)

    def data(self) -> bytes:
        types = b"".join(self._types)
        header = struct.pack(
            "<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(self._text)
        )
        return header + types + self._text
