# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest opened for walking: its memory, symbols and layouts, and its lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sysqcache.guestmap.btf import Btf, BtfError
from sysqcache.guestmap.kallsyms import symbol_table
from sysqcache.guestmap.layout import KernelLayout
from sysqcache.guestmap.memory import Budget, ExhaustedError, GuestMemory, UnreadableError
from sysqcache.guestmap.session import Attached, GuestSession
from sysqcache.guestmap.space import AddressSpace
from sysqcache.guestmap.study import Study, read_btf, slide
from sysqcache.guestmap.symbols import Symbols
from sysqcache.guestmap.targets import address_space
from sysqcache.guestmap.vmcoreinfo import VmcoreInfo

if TYPE_CHECKING:
    import drgn


@dataclasses.dataclass(frozen=True, slots=True)
class Guest:
    """What all walks need."""

    memory: GuestMemory
    translation: AddressSpace
    info: VmcoreInfo
    symbols: Symbols
    layout: KernelLayout

    def pointer(self, address: int, member: str) -> int:
        """The pointer or 64-bit number in ``struct.member`` of the struct at ``address``."""
        return self.memory.u64(address + self.layout.at(member))

    def u32(self, address: int, member: str) -> int:
        """The 32-bit number in ``struct.member`` of the struct at ``address``."""
        return self.memory.u32(address + self.layout.at(member))

    def number(self, address: int, member: str) -> int:
        """An unsigned number as big as the member is."""
        size = self.layout.size(member)
        if size > 8:
            raise UnreadableError(f"{member} is no number")
        data = self.memory.read(address + self.layout.at(member), size)
        return int.from_bytes(data, "little")

    def members(self, head: int, member: str, limit: int) -> Iterator[int]:
        """Structs on the list whose head is at ``head``, linked by ``struct.member``.

        Raises :class:`ExhaustedError` when there are more than ``limit``, or the list
        became a circle without its head.
        """
        link = self.layout.at(member)
        for at in self._linked(head, 0, limit):
            if at == head:
                return
            yield at - link

    def chain(self, head: int, member: str, limit: int) -> Iterator[int]:
        """Structs whose first has its address at ``head``; ``struct.member`` has the next one's.

        The last has zero there. Raises :class:`ExhaustedError` when there are more than
        ``limit``, or the list became a circle.
        """
        for at in self._linked(head, self.layout.at(member), limit):
            if not at:
                return
            yield at

    def _linked(self, head: int, link: int, limit: int) -> Iterator[int]:
        """What the pointer at ``head`` leads to, then those ``link`` bytes behind, once each."""
        seen = set[int]()
        at = self.memory.u64(head)
        while len(seen) <= limit:
            if at in seen:
                raise ExhaustedError(f"a list that became a circle after {len(seen)} entries")
            seen.add(at)
            yield at
            at = self.memory.u64(at + link)
        raise ExhaustedError(f"a list with more than {limit} entries")


def open_guest(session: Attached, budget: Budget | None = None, symbol_types: str = "") -> Guest:
    """Read symbols and types, or recall them.

    ``symbol_types`` are those that are looked at of the kernel's symbol table, all when
    empty. Raises :class:`UnreadableError` when the guest runs no kernel that can be walked.
    """
    info = session.info
    if info is None:
        raise UnreadableError("no running Linux kernel was found in the guest's memory")
    if info.is_narrow:
        raise UnreadableError(f"Linux {info.release} has 32 bits, and only those of 64 are known")
    translation = address_space(session.target, info)
    memory = GuestMemory(session, translation, budget)
    table = symbol_table(memory, info, symbol_types)
    known = Study(memory, translation, info, table).kernel()
    symbols = Symbols(slide(known.symbols, info))
    translation.use_variables(symbols.addresses, memory.u64)
    return Guest(memory, translation, info, symbols, known.layout)


def drgn_program(session: GuestSession, guest: Guest) -> drgn.Program:
    """The session's drgn program with the kernel's types and symbols made known to it.

    For drgn's own helpers, which set no limits: for guests that are trusted. May be called
    once a session. Raises :class:`UnreadableError`.
    """
    from sysqcache.guestmap.drgntypes import BtfTypes

    prog, index = session.program, session.symbol_index()

    def address(name: str) -> int | None:
        found = index(prog, name, None, True)
        return found[0].address if found else guest.symbols.get(name) or None

    try:
        btf = Btf(read_btf(guest.memory, guest.symbols))
    except BtfError as error:
        raise UnreadableError(f"the kernel's type information is damaged: {error}") from None
    prog.register_symbol_finder("kallsyms", index, enable_index=0)
    BtfTypes(prog, btf, address).register()
    return prog
