# SPDX-License-Identifier: GPL-2.0-or-later
"""Code that runs before a kernel does, wherever firmware and loader have copied it.

Such code is moved as a whole. A long block that occurs once in a file tells by how much;
whatever else is equal at that distance came with it.
"""

from __future__ import annotations

import math
import time
from typing import Final

import numpy as np

from sysqcache.attribution import evidence
from sysqcache.attribution.blocks import same_bytes
from sysqcache.attribution.board import Board
from sysqcache.attribution.truths import Blob
from sysqcache.guestmap.table import PAGE_BITS

_LONG: Final = 16
"""Bytes of a block that is searched for."""

_TRIES: Final = 64
"""Searches in one file."""

_LOW: Final = np.uint64(1 << 32)


def place_in_blob(board: Board, blob: Blob, deadline: float = math.inf) -> None:
    """Place blocks that are code of a file, moved by any distance.

    :param deadline: of the monotonic clock; blocks beyond stay open.
    """
    content = blob.content.tobytes()
    tried = np.zeros(len(board.blocks), bool)
    for _ in range(_TRIES):
        rows = np.flatnonzero(board.open & ~tried & (board.blocks.pc < _LOW))
        if not len(rows) or board.blocks.size[rows].max() < _LONG or time.monotonic() > deadline:
            return
        row = int(rows[np.argmax(board.blocks.size[rows])])
        code = board.blocks.bytes_of(row)
        tried[row] = True
        found = content.find(code)
        if found >= 0 and content.find(code, found + 1) < 0:
            base = board.blocks.pc[row] - np.uint64(found)
            _place_all(board, blob, base)


def _place_all(board: Board, blob: Blob, base: np.uint64) -> None:
    """Place the blocks that are equal to the file as if it began at ``base``."""
    rows = np.flatnonzero(board.open & (board.blocks.pc < _LOW))
    offset, size = board.blocks.pc[rows] - base, board.blocks.size[rows]
    length = np.uint64(len(blob.content))
    inside = (offset < length) & (offset + size.astype(np.uint64) <= length)
    rows, offset, size = rows[inside], offset[inside], size[inside]
    start = board.blocks.start[rows]
    same = same_bytes(board.blocks.code, start, blob.content, offset.astype(np.int64), size)
    good = evidence.runs(same, board.blocks.ram[rows] >> np.uint64(PAGE_BITS), offset, size)
    board.place(rows[good], board.number(blob.module), offset[good])
