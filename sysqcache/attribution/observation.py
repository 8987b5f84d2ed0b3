# SPDX-License-Identifier: GPL-2.0-or-later
"""What only the living guest can tell of recorded blocks: who owns their pages, byte for byte."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import itertools
import time
from collections.abc import Iterator
from typing import Final

import numpy as np

from sysqcache.attribution.blocks import I32, I64, U8, U64, Mask, Pieces, RecordedBlocks, same_bytes
from sysqcache.formats.journal import Journal
from sysqcache.guestmap.memory import PhysicalMemory, UnreadableError
from sysqcache.guestmap.result import GuestMap, KernelInfo, KernelModule
from sysqcache.guestmap.table import NOWHERE, PAGE, PAGE_BITS, Owned, Owner, RamMap

SECONDS: Final = 5.0
"""Processor time in which a guest's memory is compared; blocks beyond are not confirmed."""

_PAGES_AT_ONCE: Final = 4096
_RUN: Final = 256
"""Pages of one read."""

_PAGE: Final = np.uint64(PAGE)


class Seen(enum.IntEnum):
    """What is at a block's address now."""

    UNREAD = 0
    OTHER = 1
    SAME = 2


@dataclasses.dataclass(frozen=True)
class Observation:
    """A look into the guest at one moment; n blocks had been recorded.

    :param record: shape (n,), int64, ascending: the blocks' records in the journal.
    :param physical: shape (n,), uint64, guest-physical address; ``NOWHERE`` when the RAM
        was not mapped at the start.
    :param seen: shape (n,), uint8, values of :class:`Seen`: the bytes at that address.
    :param owner: shape (n,), int32, into ``owners``: who has the page now; 0 (unknown)
        for a block whose two pages are not neighbours in the same owner.
    :param offset: shape (n,), uint64: of the block in its owner, when that has offsets.
    :param dead_ram: shape (d,), uint64: dead areas, with ``dead_owner`` and ``dead_offset``.
    :param generated: shape (g, 2), uint64: executable mappings of processes that have no
        file, start and end.
    :param note: what the map could not find out, "" when nothing lacks; ``unknown`` says so
        of a kernel whose structures are not known.
    """

    record: I64
    physical: U64
    seen: U8
    owner: I32
    offset: U64
    owners: tuple[Owner, ...]
    kernel: KernelInfo
    modules: tuple[KernelModule, ...]
    dead_ram: U64
    dead_owner: I32
    dead_offset: U64
    generated: U64
    note: str = ""
    unknown: str = ""


def observe(
    memory: PhysicalMemory, found: GuestMap, journal: Journal, *, seconds: float = SECONDS
) -> Observation:
    """Compare the blocks of a journal with what a guest has at their places now.

    The journal should be read from the file after a checkpoint. Raises what ``memory``
    raises when QEMU ends (:class:`.MachineDied`, :class:`.MachineError`), and nothing for
    what the guest holds.
    """
    deadline = time.thread_time() + seconds
    blocks = RecordedBlocks.of(journal)
    pieces = blocks.pieces()
    ram = RamMap.from_records(journal.ram_map)
    physical = ram.guest_physical(pieces.ram)
    owned = found.table.lookup(physical)
    owner, offset = _whole(blocks, pieces, owned, found.table.owners)
    dead_ram = np.unique(journal.dead["ram_addr"].astype(np.uint64))
    dead = found.table.lookup(ram.guest_physical(dead_ram))
    return Observation(
        record=blocks.record,
        physical=physical[: len(blocks)],
        seen=_compare(memory, blocks, pieces, physical, deadline),
        owner=owner,
        offset=offset,
        owners=found.table.owners,
        kernel=found.kernel,
        modules=found.modules,
        dead_ram=dead_ram,
        dead_owner=dead.owner.astype(np.int32),
        dead_offset=dead.offset,
        generated=_generated(found),
        note=found.note,
        unknown=found.unknown,
    )


def _whole(
    blocks: RecordedBlocks, pieces: Pieces, owned: Owned, owners: tuple[Owner, ...]
) -> tuple[I32, U64]:
    """Owners and offsets of blocks; those whose second page does not follow have none."""
    count = len(blocks)
    owner, offset = owned.owner[:count].astype(np.int32), owned.offset[:count].copy()
    row = pieces.block[count:]
    has_offset = np.array([one.has_offset for one in owners])[owner[row]]
    follows = owned.offset[count:] == offset[row] + pieces.size[row].astype(np.uint64)
    good = (owned.owner[count:] == owner[row]) & (follows | ~has_offset)
    owner[row[~good]] = 0
    offset[row[~good]] = 0
    return owner, offset


def _compare(
    memory: PhysicalMemory, blocks: RecordedBlocks, pieces: Pieces, physical: U64, deadline: float
) -> U8:
    """What is at each block's address now, by :class:`Seen`; a block is as its worst piece."""
    seen = np.full(len(physical), Seen.UNREAD, np.uint8)
    rows = np.flatnonzero(physical != np.uint64(NOWHERE))
    rows = rows[np.argsort(physical[rows], kind="stable")]
    page, place = np.unique(physical[rows] >> np.uint64(PAGE_BITS), return_inverse=True)
    for first in range(0, len(page), _PAGES_AT_ONCE):
        if time.thread_time() > deadline:
            break
        content, readable = read_pages(memory, page[first : first + _PAGES_AT_ONCE])
        low, high = np.searchsorted(place, (first, first + len(readable)))
        part, here = rows[low:high], place[low:high] - first
        start = here * PAGE + (physical[part] % _PAGE).astype(np.int64)
        same = same_bytes(blocks.code, pieces.start[part], content, start, pieces.size[part])
        seen[part] = np.where(same, Seen.SAME, Seen.OTHER)
        seen[part[~readable[here]]] = Seen.UNREAD
    whole = seen[: len(blocks)]
    np.minimum.at(whole, pieces.block[len(blocks) :], seen[len(blocks) :])
    return whole


def read_pages(memory: PhysicalMemory, page: U64) -> tuple[U8, Mask]:
    """Guest pages by number, ascending.

    :returns: their bytes in a row, zeros for those that can't be read, and which can.
    """
    content = np.zeros(len(page) * PAGE, np.uint8)
    readable = np.zeros(len(page), bool)

    def read(first: int, last: int) -> None:
        with contextlib.suppress(UnreadableError):
            data = memory.read_physical(int(page[first]) * PAGE, (last - first) * PAGE)
            content[first * PAGE : last * PAGE] = np.frombuffer(data, np.uint8)
            readable[first:last] = True

    for first, last in _runs(page):
        read(first, last)
    for row in np.flatnonzero(~readable).tolist():
        read(row, row + 1)
    return content, readable


def _runs(page: U64) -> Iterator[tuple[int, int]]:
    """Rows of pages that follow each other, first and behind the last."""
    breaks = np.flatnonzero(page[1:] != page[:-1] + np.uint64(1)) + 1
    edges = [0, *breaks.tolist(), len(page)]
    for start, end in itertools.pairwise(edges):
        for first in range(start, end, _RUN):
            yield first, min(end, first + _RUN)


def _generated(found: GuestMap) -> U64:
    """Executable mappings without a file: where processes put code that they made."""
    pairs = {
        (one.start, one.end)
        for process in found.processes
        for one in process.maps
        if "x" in one.perms and not one.file and not one.path.startswith("[v")
    }
    return np.array(sorted(pairs), np.uint64).reshape(-1, 2)
