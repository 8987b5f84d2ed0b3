# SPDX-License-Identifier: GPL-2.0-or-later
"""A Linux guest opened for walking: its memory, symbols and layouts, and its lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from sysqcache.guestmap import kernelcache, limits
from sysqcache.guestmap.btf import Btf, BtfError
from sysqcache.guestmap.image import KernelImage
from sysqcache.guestmap.kallsyms import SymbolTable
from sysqcache.guestmap.kernelcache import KnownKernel
from sysqcache.guestmap.layout import Layout
from sysqcache.guestmap.memory import PAGE, Budget, ExhaustedError, GuestMemory, UnreadableError
from sysqcache.guestmap.roots import Roots, btf_candidates
from sysqcache.guestmap.session import Session
from sysqcache.guestmap.symbols import VARIABLES, WANTED, Symbols
from sysqcache.guestmap.vmcoreinfo import VmcoreInfo
from sysqcache.guestmap.x86 import X86Translation

if TYPE_CHECKING:
    import drgn


@dataclasses.dataclass(frozen=True, slots=True)
class Guest:
    """What all walks need."""

    memory: GuestMemory
    translation: X86Translation
    info: VmcoreInfo
    symbols: Symbols
    layout: Layout

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

        Raises :class:`ExhaustedError` when there are more than ``limit``, as there are in
        a list that became a loop.
        """
        link = self.layout.at(member)
        at = self.memory.u64(head)
        for _ in range(limit):
            if at == head:
                return
            yield at - link
            at = self.memory.u64(at)
        raise ExhaustedError(f"a list with more than {limit} entries")


def open_guest(session: Session, budget: Budget | None = None, symbol_types: str = "") -> Guest:
    """Read symbols and types, or recall them.

    ``symbol_types`` are those that are looked at of the kernel's symbol table, all when
    empty. Raises :class:`UnreadableError` when the guest runs no kernel that can be walked.
    """
    info = session.info
    if info is None:
        raise UnreadableError("no running Linux kernel was found in the guest's memory")
    translation = X86Translation.from_vmcoreinfo(info)
    memory = GuestMemory(session, translation, budget)
    table = SymbolTable(memory, info, symbol_types)
    study = _Study(memory, translation, info, table)
    known = study.recall() or study.learn()
    symbols = Symbols(slide(known.symbols, info))
    base = symbols.get("page_offset_base")
    translation.direct_base = memory.u64(base) if base else translation.direct_default
    return Guest(memory, translation, info, symbols, known.layout)


def slide(linked: Mapping[str, int], info: VmcoreInfo) -> dict[str, int]:
    """Addresses in this run."""
    return {name: value + info.kaslr_offset for name, value in linked.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class _Study:
    """Getting to know the kernel of one guest."""

    memory: GuestMemory
    translation: X86Translation
    info: VmcoreInfo
    table: SymbolTable

    def recall(self) -> KnownKernel | None:
        """The kernel as it was kept, None when that is not this guest's."""
        known = kernelcache.load(self.info.build_id)
        if known is None:
            return None
        symbols = Symbols(slide(known.symbols, self.info))
        try:
            data = read_btf(self.memory, symbols)
            is_same = kernelcache.identity(self.table, data) == known.hash
            roots = self._roots(known.layout, symbols)
            if not is_same or not roots.holds(slide(known.roots, self.info)):
                return None
        except UnreadableError:
            return None
        # no modules were loaded when the kernel was first seen
        return known if "modules" in symbols else self._complete(known)

    def learn(self) -> KnownKernel:
        """Read symbols and types, and keep them."""
        addresses = self.table.find(WANTED)
        image = None
        if any(name not in addresses for name in VARIABLES):
            image = self._image(Symbols(addresses))
        place, data, layout = self._types(addresses, image)
        addresses["__start_BTF"], addresses["__stop_BTF"] = place
        identity = kernelcache.identity(self.table, data)
        known = KnownKernel(self._linked(addresses), layout, identity)
        if image is not None:
            return self._complete(known, image)
        kernelcache.save(self.info.build_id, known)
        return known

    def _types(
        self, addresses: Mapping[str, int], image: KernelImage | None
    ) -> tuple[tuple[int, int], bytes, Layout]:
        """(start, end), data and layout of the kernel's BTF."""
        places = [(addresses.get("__start_BTF", 0), addresses.get("__stop_BTF", 0))]
        if not places[0][0] and image is not None:
            places = btf_candidates(image)
        problem = "the kernel has no type information (BTF)"
        for place in places:
            data = read_btf(self.memory, Symbols({"__start_BTF": place[0], "__stop_BTF": place[1]}))
            self.memory.budget.check()
            try:
                layout = Layout.from_btf(Btf(data))
            except BtfError as error:
                problem = f"the kernel's type information is damaged: {error}"
                continue
            if len(places) == 1 or layout.has("task_struct.tasks"):
                return place, data, layout
        raise UnreadableError(problem)

    def _complete(self, known: KnownKernel, image: KernelImage | None = None) -> KnownKernel:
        """What the symbol table lacks, from what is in the image; kept when it is new."""
        symbols = Symbols(slide(known.symbols, self.info))
        addresses, proofs = self._roots(known.layout, symbols).find(image or self._image(symbols))
        both = {**known.symbols, **self._linked(addresses)}
        roots = {**known.roots, **self._linked(proofs)}
        complete = dataclasses.replace(known, symbols=both, roots=roots)
        if addresses or image is not None:
            kernelcache.save(self.info.build_id, complete)
        return complete

    def _image(self, symbols: Symbols) -> KernelImage:
        return KernelImage.read(self.memory, self.translation, symbols["_etext"] & -PAGE)

    def _roots(self, layout: Layout, symbols: Symbols) -> Roots:
        return Roots(self.memory, self.translation, self.info, layout, symbols)

    def _linked(self, addresses: Mapping[str, int]) -> dict[str, int]:
        return {name: value - self.info.kaslr_offset for name, value in addresses.items()}


def read_btf(memory: GuestMemory, symbols: Symbols) -> bytes:
    """The kernel's BTF; raises :class:`UnreadableError` when it has none."""
    start, end = symbols.get("__start_BTF"), symbols.get("__stop_BTF")
    if not 0 < end - start <= limits.BTF_BYTES:
        raise UnreadableError("the kernel has no type information (BTF)")
    return memory.bulk(start, end - start)


def drgn_program(session: Session, guest: Guest) -> drgn.Program:
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
