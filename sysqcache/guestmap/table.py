# SPDX-License-Identifier: GPL-2.0-or-later
"""The interval table: which guest-physical page belongs to whom, as arrays."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

PAGE_BITS: Final = 12
PAGE: Final = 1 << PAGE_BITS
NOWHERE: Final = 0xFFFF_FFFF_FFFF_FFFF
"""A guest-physical address that :class:`RamMap` gives for what it does not know."""


class OwnerKind(enum.StrEnum):
    """Kinds of owners; the names are those of the JSON of `map`."""

    FILE = "file"
    KERNEL = "kernel"
    KERNEL_MODULE = "kernel-module"
    JIT = "jit"
    ANONYMOUS = "anonymous"
    FIRMWARE = "firmware"
    FREE = "free"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True, slots=True)
class Owner:
    """Who owns a page.

    ``name``: a file's path, a module's name, or the part of the kernel: ``text``,
    ``init``, ``rodata``, ``data``, or ``memory`` for what it has allocated. ``build_id``
    is "" for what has none. ``inode`` and ``device`` (the kernel's ``dev_t``) are a
    file's. ``file`` is the address of the kernel's struct inode, which identifies a file
    as long as the guest runs.
    """

    kind: OwnerKind
    name: str = ""
    build_id: str = ""
    inode: int = 0
    device: int = 0
    file: int = 0

    @property
    def has_offset(self) -> bool:
        """True when a page has a place inside its owner: a file's, or an image's."""
        return self.kind in _PLACED or (self.kind == OwnerKind.KERNEL and self.name != "memory")


_PLACED: Final = frozenset({OwnerKind.FILE, OwnerKind.KERNEL_MODULE})
UNKNOWN: Final = Owner(OwnerKind.UNKNOWN)


@dataclasses.dataclass(frozen=True, slots=True)
class Owned:
    """Answers of :meth:`OwnerTable.lookup`, one for each address.

    :param owner: shape (n,), indices into ``OwnerTable.owners``; 0 is the unknown owner.
    :param offset: shape (n,), bytes from the start of the file, from the kernel's
        ``_text`` or from the module's code; 0 for owners without offsets.
    """

    owner: I64
    offset: U64


class OwnerTable:
    """Intervals of guest-physical pages with one owner each; immutable.

    :param owners: all owners; the first is the unknown one.
    :param start: shape (n,), first page number of each interval, strictly ascending.
    :param end: shape (n,), page number behind the last; intervals do not overlap.
    :param owner: shape (n,), indices into ``owners``.
    :param offset: shape (n,), bytes: the first page's place in its owner.
    """

    def __init__(
        self, owners: Sequence[Owner], start: U64, end: U64, owner: I64, offset: U64
    ) -> None:
        if not owners or owners[0] != UNKNOWN:
            raise ValueError("the first owner has to be the unknown one")
        self.owners = tuple(owners)
        self.start, self.end, self.owner, self.offset = start, end, owner, offset
        self._placed = np.array([one.has_offset for one in self.owners])

    def __len__(self) -> int:
        return len(self.start)

    @classmethod
    def empty(cls) -> OwnerTable:
        """A table that knows nothing."""
        none = np.zeros(0, np.uint64)
        return cls((UNKNOWN,), none, none, np.zeros(0, np.int64), none)

    @classmethod
    def from_pages(cls, owners: Sequence[Owner], page: U64, owner: I64, offset: U64) -> OwnerTable:
        """From single pages: page numbers (ascending), owners and byte offsets."""
        if not len(page):
            return cls(owners, page, page, owner, offset)
        placed = np.array([one.has_offset for one in owners])[owner]
        offset = np.where(placed, offset, np.uint64(0))
        step = np.where(placed, np.uint64(PAGE), np.uint64(0))
        follows = (
            (page[1:] == page[:-1] + np.uint64(1))
            & (owner[1:] == owner[:-1])
            & (offset[1:] == offset[:-1] + step[1:])
        )
        first = np.flatnonzero(np.concatenate(([True], ~follows)))
        last = np.concatenate((first[1:], [len(page)])) - 1
        return cls(owners, page[first], page[last] + np.uint64(1), owner[first], offset[first])

    def lookup(self, address: U64) -> Owned:
        """Owners of guest-physical byte addresses; what no interval holds is unknown."""
        address = np.asarray(address, np.uint64)
        if not len(self.start):
            return Owned(np.zeros(len(address), np.int64), np.zeros(len(address), np.uint64))
        page = address >> np.uint64(PAGE_BITS)
        row = np.searchsorted(self.start, page, "right") - 1
        row0 = np.maximum(row, 0)
        inside = (row >= 0) & (page < self.end[row0])
        owner = np.where(inside, self.owner[row0], 0)
        distance = address - (self.start[row0] << np.uint64(PAGE_BITS))
        offset = np.where(self._placed[owner], self.offset[row0] + distance, np.uint64(0))
        return Owned(owner, offset)

    def counts(self) -> Mapping[OwnerKind, int]:
        """Pages by kind."""
        counts = dict.fromkeys(OwnerKind, 0)
        pages = np.bincount(
            self.owner, (self.end - self.start).astype(np.float64), len(self.owners)
        )
        for owner, count in zip(self.owners, pages.tolist(), strict=True):
            counts[owner.kind] += int(count)
        return counts


class RamMap:
    """QEMU's RAM addresses, which a journal records, as guest-physical ones.

    :param ram: shape (n,), RAM address of each range's start.
    :param guest: shape (n,), its guest-physical address.
    :param size: shape (n,), bytes.
    """

    def __init__(self, ram: U64, guest: U64, size: U64) -> None:
        order = np.argsort(ram, kind="stable")
        self._ram, self._guest, self._size = ram[order], guest[order], size[order]

    @classmethod
    def from_records(cls, records: np.ndarray[tuple[int], np.dtype[np.void]]) -> RamMap:
        """From a journal's ``ram_map``: records of ``block.RAM_RANGE``."""
        names = ("ram_addr", "guest_physical", "size")
        return cls(*(records[name].astype(np.uint64) for name in names))

    def guest_physical(self, address: U64) -> U64:
        """Guest-physical addresses; :data:`NOWHERE` for RAM that is not mapped."""
        address = np.asarray(address, np.uint64)
        if not len(self._ram):
            return np.full(len(address), NOWHERE, np.uint64)
        row = np.maximum(np.searchsorted(self._ram, address, "right") - 1, 0)
        distance = address - self._ram[row]
        inside = (address >= self._ram[row]) & (distance < self._size[row])
        return np.where(inside, self._guest[row] + distance, np.uint64(NOWHERE))
