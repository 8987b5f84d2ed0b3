# SPDX-License-Identifier: GPL-2.0-or-later
"""Getting to know the kernel of a guest: its symbols and types, read or recalled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from sysqcache.guestmap import kernelcache, limits
from sysqcache.guestmap.btf import Btf, BtfError
from sysqcache.guestmap.image import KernelImage
from sysqcache.guestmap.kallsyms import NoSymbolTable, SymbolTable
from sysqcache.guestmap.kernelcache import KnownKernel
from sysqcache.guestmap.layout import KernelLayout
from sysqcache.guestmap.memory import PAGE, GuestMemory, NoTypesError, UnreadableError
from sysqcache.guestmap.roots import Roots, btf_candidates
from sysqcache.guestmap.space import AddressSpace
from sysqcache.guestmap.symbols import VARIABLES, WANTED, Symbols
from sysqcache.guestmap.vmcoreinfo import VmcoreInfo

_NO_TYPES: Final = "the kernel has no type information (BTF)"


def slide(linked: Mapping[str, int], info: VmcoreInfo) -> dict[str, int]:
    """Addresses in this run."""
    return {name: value + info.kaslr_offset for name, value in linked.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class Study:
    """Getting to know the kernel of one guest."""

    memory: GuestMemory
    translation: AddressSpace
    info: VmcoreInfo
    table: SymbolTable | NoSymbolTable

    def kernel(self) -> KnownKernel:
        """The kernel as it was kept, else as it is read now, and kept.

        Its layout is empty without type information. Raises :class:`UnreadableError` when
        it is none that can be walked.
        """
        return self._recall() or self._learn()

    @property
    def _variables(self) -> tuple[str, ...]:
        """Those that are searched for."""
        return *VARIABLES, *self.translation.variables

    def _recall(self) -> KnownKernel | None:
        """None when what was kept is not this guest's kernel."""
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
        # a guest may have had no modules, or have hidden what others show
        lacks = known.searched and any(name not in symbols for name in self._variables)
        return self._complete(known, self._image(symbols)) if lacks else known

    def _learn(self) -> KnownKernel:
        addresses = self.table.find((*WANTED, *self.translation.variables))
        image = None
        if "init_task" not in addresses:
            # functions only: all variables have to be searched for
            image = self._image(Symbols(addresses))
        try:
            place, data, layout = self._types(addresses, image)
        except NoTypesError as error:
            return KnownKernel(self._linked(addresses), KernelLayout({}, {}, {}, str(error)), "")
        addresses["__start_BTF"], addresses["__stop_BTF"] = place
        identity = kernelcache.identity(self.table, data)
        known = KnownKernel(self._linked(addresses), layout, identity, searched=image is not None)
        if image is not None:
            return self._complete(known, image)
        kernelcache.save(self.info.build_id, known)
        return known

    def _types(
        self, addresses: Mapping[str, int], image: KernelImage | None
    ) -> tuple[tuple[int, int], bytes, KernelLayout]:
        """(start, end), data and layout of the kernel's BTF."""
        places = [(addresses.get("__start_BTF", 0), addresses.get("__stop_BTF", 0))]
        if not places[0][0] and image is not None:
            places = btf_candidates(image)
        problem = _NO_TYPES
        for place in places:
            data = read_btf(self.memory, Symbols({"__start_BTF": place[0], "__stop_BTF": place[1]}))
            self.memory.budget.check()
            try:
                layout = KernelLayout.from_btf(Btf(data))
            except BtfError as error:
                problem = f"the kernel's type information is damaged: {error}"
                continue
            if len(places) == 1 or layout.has("task_struct.tasks"):
                return place, data, layout
        raise NoTypesError(problem)

    def _complete(self, known: KnownKernel, image: KernelImage) -> KnownKernel:
        """With what is found in the image, and kept when there is something new."""
        symbols = Symbols(slide(known.symbols, self.info))
        addresses, proofs = self._roots(known.layout, symbols).find(image)
        if not addresses:
            return known
        both = {**known.symbols, **self._linked(addresses)}
        roots = {**known.roots, **self._linked(proofs)}
        complete = dataclasses.replace(known, symbols=both, roots=roots)
        kernelcache.save(self.info.build_id, complete)
        return complete

    def _image(self, symbols: Symbols) -> KernelImage:
        start = symbols.get("_etext") or symbols["_stext"]
        return KernelImage.read(self.memory, self.translation, start & -PAGE)

    def _roots(self, layout: KernelLayout, symbols: Symbols) -> Roots:
        return Roots(self.memory, self.translation, self.info, layout, symbols)

    def _linked(self, addresses: Mapping[str, int]) -> dict[str, int]:
        return {name: value - self.info.kaslr_offset for name, value in addresses.items()}


def read_btf(memory: GuestMemory, symbols: Symbols) -> bytes:
    """The kernel's BTF; raises :class:`NoTypesError` when it has none."""
    start, end = symbols.get("__start_BTF"), symbols.get("__stop_BTF")
    if not 0 < end - start <= limits.BTF_BYTES:
        raise NoTypesError(_NO_TYPES)
    return memory.bulk(start, end - start)
