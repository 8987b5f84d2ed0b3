# SPDX-License-Identifier: GPL-2.0-or-later
"""Code that runs before a kernel does, wherever firmware and loader have copied it.

Such code is moved as a whole. A long block that occurs once in a file tells by how much;
whatever else is equal at that distance came with it. Some of it runs on: a RISC-V kernel
calls the firmware below it all the time.
"""

from __future__ import annotations

import math
import time
from typing import Final

import numpy as np

from sysqcache.attribution import evidence
from sysqcache.attribution.blocks import I64, RecordedBlocks, same_bytes
from sysqcache.attribution.board import Board
from sysqcache.attribution.truths import Blob
from sysqcache.guestmap.table import PAGE_BITS

_LONG: Final = 16
"""Bytes of a block that is searched for."""

_TRIES: Final = 64
"""Searches in one file."""

_ADDRESSES: Final = 1 << 64
LOW: Final = np.uint64(1 << 32)
_HIGH: Final = np.uint64(0xFFFF_8000_0000_0000)


def place_in_blob(board: Board, blob: Blob, deadline: float = math.inf) -> None:
    """Place blocks of code of a file that was moved somewhere before any kernel ran.

    :param deadline: of the thread's processor time; blocks beyond stay open.
    """
    content = blob.content.tobytes()
    low = np.flatnonzero(board.blocks.pc < LOW)
    early = np.arange(first_kernel_row(board.blocks))
    tried = np.zeros(len(early), bool)
    for _ in range(_TRIES):
        rows = early[board.open[early] & ~tried & (board.blocks.pc[early] < LOW)]
        if not len(rows) or board.blocks.size[rows].max() < _LONG or time.thread_time() > deadline:
            return
        row = int(rows[np.argmax(board.blocks.size[rows])])
        code = board.blocks.bytes_of(row)
        tried[row] = True
        found = content.find(code)
        if found >= 0 and content.find(code, found + 1) < 0:
            # below zero for code near the start of memory, from far back in a file
            base = np.uint64((int(board.blocks.pc[row]) - found) % _ADDRESSES)
            place_at(board, blob, low, base)


def first_kernel_row(blocks: RecordedBlocks) -> int:
    """The first block at an address where no firmware runs, n when there is none."""
    high = np.flatnonzero(blocks.pc >= _HIGH)
    return int(high[0]) if len(high) else len(blocks)


def place_at(board: Board, blob: Blob, rows: I64, base: np.uint64) -> None:
    """Place those of some blocks that are equal to the file as if it began at ``base``."""
    rows = rows[board.open[rows]]
    offset, size = board.blocks.pc[rows] - base, board.blocks.size[rows]
    length = np.uint64(len(blob.content))
    inside = (offset < length) & (offset + size.astype(np.uint64) <= length)
    rows, offset, size = rows[inside], offset[inside], size[inside]
    start = board.blocks.start[rows]
    same = same_bytes(board.blocks.code, start, blob.content, offset.astype(np.int64), size)
    page = board.blocks.ram[rows] >> np.uint64(PAGE_BITS)
    good = evidence.runs(same, page, offset, size, evidence.TOGETHER)
    _, first = np.unique(offset[good], return_index=True)
    if size[good][first].sum() >= evidence.FOUND:
        board.place(rows[good], board.number(blob.module), offset[good])
