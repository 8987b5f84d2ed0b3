# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's own list of what lies where in its physical memory, as in /proc/iomem."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from sysqcache.guestmap import limits
from sysqcache.guestmap.guest import Guest
from sysqcache.guestmap.memory import ExhaustedError, UnreadableError

_RAM = "System RAM"


@dataclasses.dataclass(frozen=True, slots=True)
class Resource:
    """Guest-physical addresses ``start`` to ``end`` and what the kernel calls them."""

    start: int
    end: int
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Resources:
    """All resources; empty when they could not be read, ``note`` says why."""

    all: tuple[Resource, ...]
    note: str = ""

    @classmethod
    def read(cls, guest: Guest) -> Resources:
        """Walk the tree; what was read until it makes no sense is kept."""
        found: list[Resource] = []
        try:
            found.extend(_walk(guest))
        except (UnreadableError, ExhaustedError) as error:
            return cls(tuple(found), f"the list of memory ends early: {error}")
        return cls(tuple(found))

    def ram(self) -> list[tuple[int, int]]:
        """(start, end) of all memory that the kernel uses, ascending.

        Memory that was plugged in has a longer name.
        """
        return sorted((one.start, one.end) for one in self.all if one.name.startswith(_RAM))

    def named(self, name: str) -> tuple[int, int]:
        """(start, end) of the first resource with this name; zeros when there is none."""
        return next(((one.start, one.end) for one in self.all if one.name == name), (0, 0))


def _walk(guest: Guest) -> Iterator[Resource]:
    """Each resource before those inside it; raises as reading does."""
    left = [guest.pointer(guest.symbols["iomem_resource"], "resource.child")]
    for _ in range(limits.RESOURCES):
        while left and not left[-1]:
            left.pop()
        if not left:
            return
        at = left[-1]
        name = guest.memory.string(guest.pointer(at, "resource.name"))
        start, last = guest.pointer(at, "resource.start"), guest.pointer(at, "resource.end")
        yield Resource(start, last + 1, name)
        left[-1] = guest.pointer(at, "resource.sibling")
        left.append(guest.pointer(at, "resource.child"))
    raise ExhaustedError(f"more than {limits.RESOURCES} resources")
