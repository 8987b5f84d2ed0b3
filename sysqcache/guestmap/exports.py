# SPDX-License-Identifier: GPL-2.0-or-later
"""Symbols that a kernel exports to its modules, from the tables of its module loader.

The tables ``__ksymtab`` and ``__ksymtab_gpl`` (include/linux/export-internal.h of the
kernel) hold three 32-bit distances for each symbol, each counted from its own place: to
the symbol, to its name and to the name of its namespace. They are sorted by name. Where
they begin is known only from symbols that a kernel may lack, so they are found by the
names in them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from typing import Final

from sysqcache.guestmap.image import KernelImage
from sysqcache.guestmap.memory import GuestMemory, UnreadableError

_ENTRY: Final = 12
_NAME_AT: Final = 4
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


def find_exports(image: KernelImage, names: Collection[str]) -> dict[str, Export]:
    """Those of the symbols that are exported.

    Of several places that look like an entry, that with most neighbours in order is
    taken: in a real table that is all that are looked at.
    """
    places = {place: name for name in names for place in image.find(name.encode() + b"\0")}
    best: dict[str, tuple[int, Export]] = {}
    for found, place in image.references(places):
        entry = found - _NAME_AT
        try:
            export = Export(entry + image.s32(entry), entry)
        except UnreadableError:
            continue
        order = _neighbours(image, entry)
        known = best.get(places[place])
        if order >= _ENOUGH and image.holds(export.address) and (not known or order > known[0]):
            best[places[place]] = (order, export)
    return {name: export for name, (_, export) in best.items()}


def is_export(memory: GuestMemory, name: str, export: Export) -> bool:
    """True when the guest has this entry."""
    try:
        entry = export.entry
        value = entry + _signed(memory.u32(entry))
        place = entry + _NAME_AT + _signed(memory.u32(entry + _NAME_AT))
        return value == export.address and memory.string(place, _NAME_BYTES) == name
    except UnreadableError:
        return False


def _signed(number: int) -> int:
    return number - (1 << 32) if number >> 31 else number


def _neighbours(image: KernelImage, entry: int) -> int:
    """How many entries around this one are in order with it."""
    own = _entry_name(image, entry)
    if own is None:
        return 0
    count = 0
    for step in (-_ENTRY, _ENTRY):
        last = own
        for i in range(1, _NEIGHBOURS + 1):
            name = _entry_name(image, entry + i * step)
            if name is None or (name >= last if step < 0 else name <= last):
                break
            last = name
            count += 1
    return count


def _entry_name(image: KernelImage, entry: int) -> bytes | None:
    place = entry + _NAME_AT
    try:
        found = _NAME.match(image.at(place + image.s32(place), _NAME_BYTES))
    except UnreadableError:
        return None
    return found[1] if found else None
