# SPDX-License-Identifier: GPL-2.0-or-later
"""What has to be taken from a living guest, so that all else can be found out without it."""

from __future__ import annotations

import dataclasses
import time
from typing import Final

import numpy as np

from sysqcache.attribution.blocks import U8, U64
from sysqcache.attribution.observation import SECONDS, Mapped, Observation, observe, read_pages
from sysqcache.formats.journal import Journal, RecordedRam
from sysqcache.guestmap.memory import PhysicalMemory, UnreadableError
from sysqcache.guestmap.result import KernelInfo, KernelModule
from sysqcache.guestmap.table import NOWHERE, PAGE, PAGE_BITS, OwnerTable, RamMap

MOST_PAGES: Final = 1 << 16
"""256 MiB; of a guest that ran code in more pages, those with most blocks are taken."""

_PAGES_AT_ONCE: Final = 4096


@dataclasses.dataclass(frozen=True)
class Look:
    """The owners of a guest's memory at one moment, and the pages that its code had run from.

    :param end: bytes of the journal at that moment: what was recorded later is not judged.
    :param page: shape (p,), uint64, ascending: numbers of guest-physical pages.
    :param content: shape (p, 4096), uint8.

    The rest is as in :class:`.observation.Mapped`.
    """

    end: int
    table: OwnerTable
    kernel: KernelInfo
    modules: tuple[KernelModule, ...]
    generated: U64
    page: U64
    content: U8
    note: str = ""
    unknown: str = ""

    def read_physical(self, address: int, size: int) -> bytes:
        """Bytes of pages that were taken; raises :class:`UnreadableError` for all others."""
        first, last = address >> PAGE_BITS, address + size - 1 >> PAGE_BITS
        row = int(np.searchsorted(self.page, np.uint64(first)))
        rows = self.page[row : row + last - first + 1]
        if len(rows) <= last - first or rows[0] != first or rows[-1] != last:
            raise UnreadableError(f"no page was taken at {address:#x}")
        start = address - (first << PAGE_BITS)
        return self.content[row : row + len(rows)].tobytes()[start : start + size]

    def observe(self, journal: Journal, *, seconds: float = SECONDS) -> Observation:
        """Compare the blocks of a journal with the pages; for ``seconds`` of the processor."""
        return observe(self, self, journal.before(self.end), seconds=seconds)


def take(memory: PhysicalMemory, found: Mapped, recorded: RecordedRam, *, seconds: float) -> Look:
    """Take the pages that a journal's blocks were recorded from, in ``seconds`` of the processor.

    Raises what ``memory`` raises when QEMU ends, and nothing for what the guest holds.
    """
    deadline = time.thread_time() + seconds
    physical = RamMap.from_records(recorded.ram_map).guest_physical(recorded.address)
    wanted = _fullest(physical[physical != np.uint64(NOWHERE)] >> np.uint64(PAGE_BITS))
    pages, contents = [wanted[:0]], [np.zeros((0, PAGE), np.uint8)]
    for first in range(0, len(wanted), _PAGES_AT_ONCE):
        if time.thread_time() > deadline:
            break
        some = wanted[first : first + _PAGES_AT_ONCE]
        content, readable = read_pages(memory, some)
        pages.append(some[readable])
        contents.append(content.reshape(-1, PAGE)[readable])
    return Look(
        end=recorded.end,
        table=found.table,
        kernel=found.kernel,
        modules=found.modules,
        generated=found.generated,
        page=np.concatenate(pages),
        content=np.concatenate(contents),
        note=found.note,
        unknown=found.unknown,
    )


def _fullest(page: U64) -> U64:
    """Each page once, ascending; of too many those that come most often."""
    numbers, counts = np.unique(page, return_counts=True)
    if len(numbers) > MOST_PAGES:
        numbers = np.sort(numbers[np.argsort(-counts, kind="stable")[:MOST_PAGES]])
    return numbers
