# SPDX-License-Identifier: GPL-2.0-or-later
"""Places by content: programs whose pages nobody owns any more.

The files of the initial RAM disk are deleted when the real root is mounted, others are
replaced, and pages are dropped. A file is mapped as a whole: a long block that is found
in a file tells where that lay in its process, and whatever else is equal at that distance
is code of the same mapping.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Final

import numpy as np

from sysqcache.attribution import evidence
from sysqcache.attribution.blocks import I64, U64, Mask, same_bytes
from sysqcache.attribution.board import Board
from sysqcache.attribution.truths import CodePages
from sysqcache.guestmap.table import PAGE, PAGE_BITS

_TRIES: Final = 8
"""Blocks of one guest page that are searched for."""

_CANDIDATES: Final = 32
"""Places of one block that are tried; code that is everywhere proves nothing."""

_NEAR: Final = 512
"""Blocks before and behind that count as neighbours in time."""

_USER: Final = np.uint64(1 << 56)
"""Addresses below are those of programs, on any architecture."""

_WORD: Final = np.dtype("<u8")


def place_by_content(board: Board, pages: CodePages, deadline: float = math.inf) -> None:
    """Place open blocks of programs in the files of ``pages``.

    :param deadline: of the thread's processor time; blocks beyond stay open.
    """
    if not len(pages.content):
        return
    search = _Search(board, pages)
    user = np.flatnonzero(board.open & (board.blocks.pc < _USER))
    page, size = board.blocks.ram[user] >> np.uint64(PAGE_BITS), board.blocks.first_size(user)
    # the longest blocks of each guest page, the first in time first
    order = np.lexsort((user, -size, page))
    rank = _ranks(page[order])
    wanted = user[order[(rank < _TRIES) & (size[order] >= _WORD.itemsize)]]
    for row in np.sort(wanted).tolist():
        if time.thread_time() > deadline:
            return
        if board.open[row]:
            search.settle(row)


def _ranks(group: U64) -> I64:
    """The place of each row among those of its group; rows are grouped already."""
    new = np.concatenate(([True], group[1:] != group[:-1]))[: len(group)]
    starts = np.flatnonzero(new)
    return np.arange(len(group)) - np.repeat(starts, np.diff(np.append(starts, len(group))))


@dataclasses.dataclass(frozen=True)
class _Mapping:
    """A file at an address: what of the open blocks is equal to it, and what that proves."""

    number: int
    rows: I64
    offset: U64
    proof: int


class _Search:
    """Looks for blocks of a board in pages of files."""

    def __init__(self, board: Board, pages: CodePages) -> None:
        self._board = board
        self._pages = pages
        self._flat = pages.content.reshape(-1)
        key = pages.module.astype(np.int64) << 32 | pages.offset.astype(np.int64)
        self._order = np.argsort(key, kind="stable")
        self._key = key[self._order]

    def settle(self, row: int) -> None:
        """Find the mapping that a block belongs to, and place all of its blocks."""
        found = [self._mapping(row, page) for page in self._pages_with(row)]
        found = [one for one in found if one.proof]
        if not found:
            return
        best = max(one.proof for one in found)
        equal = [one for one in found if one.proof == best]
        chosen = equal[0] if len(equal) == 1 else max(equal, key=lambda one: self._near(one, row))
        number = self._board.number(self._pages.modules[chosen.number])
        self._board.place(chosen.rows, number, chosen.offset)

    def _pages_with(self, row: int) -> list[int]:
        """Rows of the pages that hold a block's first bytes at its place."""
        blocks = self._board.blocks
        place, start = int(blocks.pc[row]) % PAGE, int(blocks.start[row])
        size = min(int(blocks.size[row]), PAGE - place)
        wanted = blocks.code[start : start + size]
        column = np.ascontiguousarray(self._pages.content[:, place : place + _WORD.itemsize])
        page = np.flatnonzero(column.view(_WORD)[:, 0] == wanted[: _WORD.itemsize].view(_WORD)[0])
        page = page[(self._pages.content[page, place : place + size] == wanted).all(axis=1)]
        rows: list[int] = page.tolist() if len(page) <= _CANDIDATES else []
        return rows

    def _mapping(self, row: int, found: int) -> _Mapping:
        """The mapping in which a block lies on a page of ``pages``."""
        blocks, number = self._board.blocks, int(self._pages.module[found])
        base = blocks.pc[row] // np.uint64(PAGE) * np.uint64(PAGE) - np.uint64(
            self._pages.offset[found]
        )
        last = self._key[np.searchsorted(self._key, (number + 1) << 32) - 1] & 0xFFFF_FFFF
        offset = blocks.pc - base
        rows = np.flatnonzero(self._board.open & (offset < np.uint64(int(last) + PAGE)))
        offset, size = offset[rows], blocks.size[rows]
        same = self._equal(rows, number, offset)
        page = blocks.ram[rows] >> np.uint64(PAGE_BITS)
        good = evidence.runs(same, page, offset, size, evidence.FOUND)
        _, first = np.unique(offset[good], return_index=True)
        proof = int(size[good][first].sum()) if good[rows == row].any() else 0
        return _Mapping(number, rows[good], offset[good], proof)

    def _equal(self, rows: I64, number: int, offset: U64) -> Mask:
        """Whether blocks are equal to a file at some offsets."""
        pieces = self._board.blocks.pieces(rows)
        at = offset[pieces.block].astype(np.int64)
        at[len(rows) :] = (at[len(rows) :] + PAGE) & -PAGE
        page = self._rows_of(number, at)
        known = np.flatnonzero(page >= 0)
        same = np.zeros(len(at), bool)
        same[known] = same_bytes(
            self._board.blocks.code,
            pieces.start[known],
            self._flat,
            page[known] * PAGE + at[known] % PAGE,
            pieces.size[known],
        )
        whole = same[: len(rows)]
        np.logical_and.at(whole, pieces.block[len(rows) :], same[len(rows) :])
        return whole

    def _rows_of(self, number: int, offset: I64) -> I64:
        """Rows of the pages with offsets in a file, -1 where there is none."""
        key = number << 32 | (offset & -PAGE)
        at = np.minimum(np.searchsorted(self._key, key), len(self._key) - 1)
        return np.where(self._key[at] == key, self._order[at], -1)

    def _near(self, mapping: _Mapping, row: int) -> int:
        """How many blocks recorded about then are of the same module."""
        number = self._board.number(self._pages.modules[mapping.number])
        near = self._board.module[max(0, row - _NEAR) : row + _NEAR]
        return int(np.count_nonzero(near == number))
