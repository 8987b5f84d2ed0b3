# SPDX-License-Identifier: GPL-2.0-or-later
"""Symbols that a kernel exports to its modules, from the tables of its module loader.

The tables ``__ksymtab`` and ``__ksymtab_gpl`` (include/linux/export-internal.h of the
kernel) say three things of each symbol: where it is, its name and the name of its
namespace. On x86-64 and arm64 these are 32-bit distances, each counted from its own
place, on RISC-V they are 64-bit addresses. The tables are sorted by name. Where they
begin is known only from symbols that a kernel may lack, so they are found by the names
in them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from typing import Final

from sysqcache.guestmap.image import KernelImage
from sysqcache.guestmap.memory import GuestMemory, UnreadableError

_NAME: Final = re.compile(rb"([A-Za-z_][\w.$]*)\0")
_NAME_BYTES: Final = 128
_NEIGHBOURS: Final = 32
"""Entries looked at before and behind the one in question."""

_ENOUGH: Final = 8
"""Neighbours in order that make a table; real ones have thousands."""


@dataclasses.dataclass(frozen=True, slots=True)
class Export:
    """The virtual address of a symbol, and that of the table's entry which says so."""

    address: int
    entry: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Form:
    """How entries are written: what is at an address in them leads to another address."""

    width: int
    relative: bool

    @property
    def entry_size(self) -> int:
        return 3 * self.width

    def target(self, address: int, data: bytes) -> int:
        """Where the bytes at an address lead; raises :class:`UnreadableError` when they lack."""
        if len(data) < self.width:
            raise UnreadableError(f"{address:#x} is outside the kernel's image")
        number = int.from_bytes(data[: self.width], "little", signed=self.relative)
        return address + number if self.relative else number


_FORMS: Final = (_Form(4, relative=True), _Form(8, relative=False))


def find_exports(image: KernelImage, names: Collection[str]) -> dict[str, Export]:
    """Those of the symbols that are exported.

    Of several places that look like an entry, that with most neighbours in order is
    taken: in a real table that is all that are looked at.
    """
    places = {place: name for name in names for place in image.find(name.encode() + b"\0")}
    best: dict[str, tuple[int, Export]] = {}
    for form in _FORMS:
        for found, place in image.references(places, relative=form.relative):
            entry = found - form.width
            try:
                export = Export(form.target(entry, image.at(entry, form.width)), entry)
            except UnreadableError:
                continue
            order = _neighbours(image, form, entry)
            known = best.get(places[place])
            good = order >= _ENOUGH and image.holds(export.address)
            if good and (not known or order > known[0]):
                best[places[place]] = (order, export)
    return {name: export for name, (_, export) in best.items()}


def is_export(memory: GuestMemory, name: str, export: Export) -> bool:
    """True when the guest has this entry."""
    for form in _FORMS:
        try:
            value, place = (
                form.target(at, memory.read(at, form.width))
                for at in (export.entry, export.entry + form.width)
            )
            if value == export.address and memory.string(place, _NAME_BYTES) == name:
                return True
        except UnreadableError:
            continue
    return False


def _neighbours(image: KernelImage, form: _Form, entry: int) -> int:
    """How many entries around this one are in order with it."""
    own = _entry_name(image, form, entry)
    if own is None:
        return 0
    count = 0
    for step in (-form.entry_size, form.entry_size):
        last = own
        for i in range(1, _NEIGHBOURS + 1):
            name = _entry_name(image, form, entry + i * step)
            if name is None or (name >= last if step < 0 else name <= last):
                break
            last = name
            count += 1
    return count


def _entry_name(image: KernelImage, form: _Form, entry: int) -> bytes | None:
    place = entry + form.width
    try:
        found = _NAME.match(image.at(form.target(place, image.at(place, 8)), _NAME_BYTES))
    except UnreadableError:
        return None
    return found[1] if found else None
