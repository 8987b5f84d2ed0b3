# SPDX-License-Identifier: GPL-2.0-or-later
"""Recorded blocks as columns, and the one comparison that all of attribution rests on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from sysqcache.formats import block as bf
from sysqcache.formats.journal import Journal

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

_AT_ONCE: Final = 1 << 21
"""Bytes that are gathered or compared in one step; bounds what a step takes of memory."""

_IN_PAGE: Final = np.uint64(bf.PAGE_SIZE - 1)
_ALL: Final = slice(None)


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The parts of blocks on one page each: a block has one or two.

    :param block: shape (k,), rows of the blocks; all first parts, then the second ones.
    :param ram: shape (k,), RAM address of each part.
    :param start: shape (k,), where its bytes begin in ``RecordedBlocks.code``.
    :param size: shape (k,), bytes, 1 or more.
    """

    block: I64
    ram: U64
    start: I64
    size: I64


@dataclasses.dataclass(frozen=True)
class RecordedBlocks:
    """n recorded blocks in the order of recording.

    :param record: shape (n,), where each block's record begins in the journal, bytes.
    :param pc: shape (n,), guest virtual addresses; the rest of the fields in the same shape.
    :param ram: RAM address of the first byte, ``block.NO_RAM`` when that makes no
        sense, and ``ram_second`` of the second page.
    :param size: guest bytes.
    :param start: where the block's bytes begin in ``code``, all guest bytes in a row.
    """

    record: I64
    pc: U64
    ram: U64
    ram_second: U64
    size: I64
    start: I64
    code: U8

    def __len__(self) -> int:
        return len(self.record)

    @classmethod
    def of(cls, journal: Journal) -> Self:
        """The blocks of a journal, their guest bytes copied."""
        size = journal.blocks.headers["guest_size"].astype(np.int64)
        start = np.cumsum(size) - size
        buffer = np.frombuffer(journal.blocks.buffer, np.uint8)
        source = journal.blocks.offsets + bf.BLOCK.size
        code = np.empty(int(size.sum()), np.uint8)
        for rows, index in _spread(size, source):
            first = int(start[rows.start])
            code[first : first + len(index)] = buffer[index]
        pc = journal.records["pc"].astype(np.uint64)
        ram = journal.records["ram0"].astype(np.uint64)
        return cls(
            record=journal.blocks.offsets - bf.RECORD.size,
            pc=pc,
            ram=np.where((pc ^ ram) & _IN_PAGE == 0, ram, np.uint64(bf.NO_RAM)),
            ram_second=journal.records["ram1"].astype(np.uint64) & ~_IN_PAGE,
            size=size,
            start=start,
            code=code,
        )

    def first_size(self, rows: I64 | slice = _ALL) -> I64:
        """Bytes of each block on its first page."""
        left: I64 = bf.PAGE_SIZE - (self.pc[rows] & _IN_PAGE).astype(np.int64)
        return np.minimum(self.size[rows], left)

    def pieces(self, rows: I64 | slice = _ALL) -> Pieces:
        """Some blocks, by default all, cut where a page ends; ``block`` counts in ``rows``."""
        size, first, start = self.size[rows], self.first_size(rows), self.start[rows]
        second = np.flatnonzero(size > first)
        return Pieces(
            block=np.concatenate((np.arange(len(size)), second)),
            ram=np.concatenate((self.ram[rows], self.ram_second[rows][second])),
            start=np.concatenate((start, (start + first)[second])),
            size=np.concatenate((first, (size - first)[second])),
        )

    def bytes_of(self, row: int) -> bytes:
        """The guest code of one block."""
        start = int(self.start[row])
        return self.code[start : start + int(self.size[row])].tobytes()


def same_bytes(left: U8, left_start: I64, right: U8, right_start: I64, size: I64) -> Mask:
    """Whether pieces of two byte arrays are equal.

    :param size: shape (k,), bytes of each piece, 1 or more; the starts have that shape too.
    :returns: shape (k,). Raises IndexError when a piece leaves its array.
    """
    same = np.zeros(len(size), bool)
    for (rows, index), (_, other) in zip(
        _spread(size, left_start), _spread(size, right_start), strict=True
    ):
        lengths = size[rows]
        equal = left[index] == right[other]
        same[rows] = np.logical_and.reduceat(equal, np.cumsum(lengths) - lengths)
    return same


def _spread(size: I64, start: I64) -> Iterator[tuple[slice, I64]]:
    """Index of each byte of pieces, some rows at a time."""
    ends = np.cumsum(size)
    first = 0
    while first < len(size):
        base = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, base + _AT_ONCE, "right")))
        rows = slice(first, last)
        # the n-th byte of all is the n-th of its piece when the piece's place is taken off
        shift: Any = start[rows] - (ends[rows] - size[rows] - base)
        yield rows, np.repeat(shift, size[rows]) + np.arange(int(ends[last - 1]) - base)
        first = last
