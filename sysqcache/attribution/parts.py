# SPDX-License-Identifier: GPL-2.0-or-later
"""Code of a file whose parts were moved, each to a place of its own: the drivers of EFI firmware,
the segments of a kernel.

Sixteen bytes that occur once in the file tell how far a block was moved. Blocks of one part
agree on that; whatever else is equal at such a distance came with them.
"""

from __future__ import annotations

import math
import time
from typing import Final

import numpy as np

from sysqcache.attribution.blobs import LOW, first_kernel_row, place_at
from sysqcache.attribution.blocks import I64, U8, U64, RecordedBlocks
from sysqcache.attribution.board import Board
from sysqcache.attribution.truths import Blob

_SEARCHED: Final = 16
"""Bytes of a block that are searched for."""

_AGREE: Final = 2
"""Blocks that have to say the same."""

_ROWS: Final = 1 << 18
"""Blocks that are searched for, the earliest ones: a bound for the memory."""

_PARTS: Final = 1024
_AT_ONCE: Final = 1 << 22
"""Bytes of a file that are searched in one step, a multiple of four; bounds the memory."""

_TABLE_BITS: Final = 20
_SHIFT: Final = np.uint64(64 - _TABLE_BITS)
_SPREAD: Final = np.uint64(0x9E37_79B9_7F4A_7C15)


def place_in_parts(board: Board, blob: Blob, deadline: float = math.inf) -> None:
    """Place blocks of code of a file whose parts were moved before any kernel ran, or of the
    kernel itself where that is no Linux.

    :param deadline: of the thread's processor time; blocks beyond stay open.
    """
    blocks = board.blocks
    everything = np.arange(len(blocks))
    low = everything if blob.is_system else np.flatnonzero(blocks.pc < LOW)
    searched = low if blob.is_system else low[low < first_kernel_row(blocks)]
    rows = searched[board.open[searched] & (blocks.size[searched] >= _SEARCHED)][:_ROWS]
    if not len(rows) or len(blob.content) < _SEARCHED or time.thread_time() > deadline:
        return
    # instructions that are four bytes begin at multiples of four
    step = 1 if (blocks.pc[rows] & np.uint64(3)).any() else 4
    found, offset = _once(blob.content, step, _first_words(blocks, rows))
    base = blocks.pc[rows[found]] - (offset * step).astype(np.uint64)
    bases, count = np.unique(base, return_counts=True)
    for index in np.argsort(-count, kind="stable")[:_PARTS]:
        if count[index] < _AGREE or time.thread_time() > deadline:
            return
        place_at(board, blob, low, bases[index])


def _words(content: U8, step: int) -> U64:
    """A number for the sixteen bytes at each multiple of ``step``, 1 or 4, shape (k,)."""
    count = (len(content) - _SEARCHED) // step + 1
    parts: list[U64] = []
    for place in (0, 4, 8, 12):
        shifted = [_u32(content, place + first) for first in range(0, 4, step)]
        parts.append(np.stack([one[: -(-count * step // 4)] for one in shifted], 1).ravel()[:count])
    return _mixed(parts)


def _u32(content: U8, start: int) -> U64:
    """The 32-bit words from ``start`` on, zeros behind the end."""
    padded = np.concatenate((content[start:], np.zeros(start + 8, np.uint8)))
    return padded[: len(padded) & -4].view("<u4").astype(np.uint64)


def _first_words(blocks: RecordedBlocks, rows: I64) -> U64:
    """The same numbers for the first bytes of blocks."""
    index = blocks.start[rows][:, None] + np.arange(_SEARCHED)
    words = np.ascontiguousarray(blocks.code[index]).view("<u4").astype(np.uint64)
    return _mixed([words[:, column] for column in range(4)])


def _mixed(parts: list[U64]) -> U64:
    """One number of four; unequal ones that get the same are sorted out by the comparison."""
    total = parts[0]
    for part in parts[1:]:
        total = total * _SPREAD + part
    return total


def _once(content: U8, step: int, wanted: U64) -> tuple[I64, I64]:
    """Which of ``wanted`` occur exactly once in a file, and where, in steps."""
    # few of the file's words are wanted: sorting all of them would take most of the time
    table = np.zeros(1 << _TABLE_BITS, bool)
    table[wanted >> _SHIFT] = True
    likely: list[U64] = []
    places: list[I64] = []
    for start in range(0, len(content) - _SEARCHED + 1, _AT_ONCE):
        words = _words(content[start : start + _AT_ONCE + _SEARCHED - 1], step)
        kept = np.flatnonzero(table[words >> _SHIFT])
        likely.append(words[kept])
        places.append(kept + start // step)
    words, kept = np.concatenate(likely), np.concatenate(places)
    order = np.argsort(words)
    ordered = words[order]
    first = np.searchsorted(ordered, wanted, "left")
    found = np.flatnonzero(np.searchsorted(ordered, wanted, "right") - first == 1)
    return found, kept[order[first[found]]]
