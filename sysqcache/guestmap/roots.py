# SPDX-License-Identifier: GPL-2.0-or-later
"""Variables of a kernel whose symbol table has functions only, found by what they hold.

Each is recognised by something that nothing else holds, and is checked again in every
guest: what was learnt from a guest that planted something is not believed of another.
"""

from __future__ import annotations

import dataclasses
import re
import struct
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from sysqcache.guestmap import limits
from sysqcache.guestmap.exports import Export, find_exports, is_export
from sysqcache.guestmap.image import KernelImage
from sysqcache.guestmap.layout import KernelLayout
from sysqcache.guestmap.memory import GuestMemory, UnreadableError
from sysqcache.guestmap.symbols import EXPORTS, Symbols

if TYPE_CHECKING:
    from sysqcache.guestmap.space import AddressSpace
    from sysqcache.guestmap.vmcoreinfo import VmcoreInfo

_BTF_START: Final = b"\x9f\xeb\x01\x00"
_BTF_HEADER: Final = struct.Struct("<HBBIIIII")
_POINTER: Final = 8
_MODULE_NAME: Final = re.compile(r"[\w-]+")


def btf_candidates(image: KernelImage) -> list[tuple[int, int]]:
    """(start, end) of what has a header like BTF and strings where it says, biggest first.

    The kernel's own types are the biggest; at most :data:`.limits.BTF_TRIED`.
    """
    found = []
    for start in image.find(_BTF_START):
        size = _btf_size(image, start)
        if size:
            found.append((start, start + size))
    found.sort(key=lambda one: one[0] - one[1])
    return found[: limits.BTF_TRIED]


def _btf_size(image: KernelImage, start: int) -> int:
    """Bytes that a header claims; 0 when that makes no sense."""
    header = image.at(start, _BTF_HEADER.size)
    if len(header) < _BTF_HEADER.size:
        return 0
    _, _, _, size, type_at, type_size, text_at, text_size = _BTF_HEADER.unpack(header)
    end = size + text_at + text_size
    in_order = _BTF_HEADER.size <= size < 4096 and type_at + type_size <= text_at
    if not in_order or not type_size or text_size < 2 or end > limits.BTF_BYTES:
        return 0
    # the first string is the empty one, and the last one ends
    first, last = image.at(start + size + text_at, 1), image.at(start + end - 1, 1)
    return end if first == last == b"\0" else 0


@dataclasses.dataclass(frozen=True, slots=True)
class Roots:
    """Finds and checks variables of one guest's kernel.

    ``symbols`` are those that are known already, the functions among them.
    """

    memory: GuestMemory
    translation: AddressSpace
    info: VmcoreInfo
    layout: KernelLayout
    symbols: Symbols

    def find(self, image: KernelImage) -> tuple[dict[str, int], dict[str, int]]:
        """(addresses, proofs) by name of all variables that are not known and can be found.

        A proof is the address that :meth:`holds` looks at.
        """
        wanted = [
            name for name in (*EXPORTS, *self.translation.variables) if name not in self.symbols
        ]
        exports = find_exports(image, wanted) if wanted else {}
        addresses = {name: export.address for name, export in exports.items()}
        proofs = {name: export.entry for name, export in exports.items()}
        for name, candidates, check in (
            ("modules", self._modules(image), self._is_modules),
            ("init_mm", self._init_mm(image), self._is_init_mm),
        ):
            if name not in self.symbols:
                address = next((one for one in candidates if check(one)), 0)
                if address:
                    addresses[name] = proofs[name] = address
        if "init_mm" in addresses and "_etext" not in self.symbols:
            for name, member in (("_text", "start_code"), ("_etext", "end_code")):
                place = addresses["init_mm"] + self.layout.at(f"mm_struct.{member}")
                addresses[name] = self.memory.u64(place)
        return addresses, proofs

    def holds(self, proofs: Mapping[str, int]) -> bool:
        """True when this guest shows what its like has shown before."""
        checks = {"modules": self._is_modules, "init_mm": self._is_init_mm}
        for name, proof in proofs.items():
            address = self.symbols.get(name)
            if name in checks:
                if proof != address or not checks[name](address):
                    return False
            elif not is_export(self.memory, name, Export(address, proof)):
                return False
        return True

    def _modules(self, image: KernelImage) -> Iterator[int]:
        """Heads of lists whose ends are in the modules' area."""
        start, end = (np.uint64(one) for one in self.translation.modules)
        first, last = np.uint64(self.symbols["_stext"]), np.uint64(image.bounds[1])

        def is_head(words: NDArray[np.uint64]) -> NDArray[np.bool_]:
            inside = (words >= start) & (words < end)
            # the image may lie in that area, and is full of pointers into itself
            inside &= (words < first) | (words >= last)
            inside[:-1] &= inside[1:]
            return inside

        yield from _some(image.words(is_head))

    def _is_modules(self, head: int) -> bool:
        """True when both ends of the list are modules and know the head."""
        memory = self.memory
        try:
            first, last = memory.u64(head), memory.u64(head + _POINTER)
            closed = memory.u64(first + _POINTER) == head and memory.u64(last) == head
            return closed and self._is_module(first) and self._is_module(last)
        except UnreadableError:
            return False

    def _is_module(self, link: int) -> bool:
        """True when a struct module that knows itself is linked here."""
        layout, memory = self.layout, self.memory
        module = link - layout.at("module.list")
        start, end = self.translation.modules
        if not start <= module < end:
            return False
        name = memory.string(module + layout.at("module.name"), layout.size("module.name"))
        itself = memory.u64(module + layout.at("module.mkobj.mod"))
        return itself == module and bool(_MODULE_NAME.fullmatch(name))

    def _init_mm(self, image: KernelImage) -> Iterator[int]:
        """Where the pointer to the kernel's page tables may be that of an mm_struct."""
        root = np.uint64(self.info.symbols.get("swapper_pg_dir", 0))
        offset = self.layout.at("mm_struct.pgd")
        for place in _some(image.words(lambda words: words == root)):
            yield place - offset

    def _is_init_mm(self, mm: int) -> bool:
        """True when its code is the kernel's."""
        try:
            pgd, start, end = (
                self.memory.u64(mm + self.layout.at(f"mm_struct.{name}"))
                for name in ("pgd", "start_code", "end_code")
            )
        except UnreadableError:
            return False
        starts = (self.symbols.get("_text"), self.symbols.get("_stext"))
        own = pgd == self.info.symbols.get("swapper_pg_dir")
        known = self.symbols.get("_etext")
        is_end = end == known if known else self.translation.is_image(start, end)
        return own and start in starts and is_end


def _some(places: Iterator[int]) -> Iterator[int]:
    for _, place in zip(range(limits.ROOTS_TRIED), places, strict=False):
        yield place
