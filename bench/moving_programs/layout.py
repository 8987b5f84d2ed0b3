# SPDX-License-Identifier: GPL-2.0-or-later
"""Where snippets lie: in pages, one behind the other, some of them across a border."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from bench.moving_programs.snippets import Snippet

PAGE: Final = 4096
TRAP_BYTE: Final = 0xCC
_GAP: Final = 24


@dataclass
class Unit:
    """One page of code, or two of which the first goes over into the second.

    :param places: number and offset of each snippet.
    """

    pages: int = 1
    fill: int = 0
    places: list[tuple[int, int]] = field(default_factory=list)

    def add(self, number: int, offset: int, size: int) -> None:
        """Put a snippet at ``offset``; what lies before it stays empty."""
        self.places.append((number, offset))
        self.fill = offset + size

    def room(self) -> int:
        """Bytes that are left of its last page."""
        return self.pages * PAGE - self.fill


def pack(snippets: Sequence[Snippet], numbers: Iterable[int], random: Random) -> list[Unit]:
    """Units that hold the snippets with these numbers, in their order."""
    units = [Unit()]
    for number in numbers:
        snippet = snippets[number]
        size = len(snippet.part.code)
        unit = units[-1]
        if snippet.cross is None:
            offset = unit.fill + random.randrange(_GAP)
            if offset + size > unit.pages * PAGE:
                units.append(unit := Unit())
                offset = random.randrange(_GAP)
        else:
            offset = PAGE - snippet.cross
            if unit.pages == 2 or unit.fill > offset:
                units.append(unit := Unit())
            unit.pages = 2
        unit.add(number, offset, size)
    return units


def code_of(unit: Unit, snippets: Sequence[Snippet], values: Sequence[Sequence[int]]) -> bytes:
    """The unit's pages; what no snippet covers is traps."""
    pages = bytearray([TRAP_BYTE]) * (unit.pages * PAGE)
    for number, offset in unit.places:
        code = snippets[number].part.filled(values[number])
        pages[offset : offset + len(code)] = code
    return bytes(pages)
