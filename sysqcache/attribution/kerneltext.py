# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel code that is no longer what it was: freed after the boot, or patched."""

from __future__ import annotations

import math
import time

import numpy as np

from sysqcache.attribution.address import common_rows, kernel_module
from sysqcache.attribution.blocks import I64, U64, same_bytes
from sysqcache.attribution.board import Board
from sysqcache.attribution.observation import Observation
from sysqcache.attribution.truths import KernelText


def place_in_kernel(
    board: Board, seen: Observation, text: KernelText, deadline: float = math.inf
) -> None:
    """Place blocks that ran where the kernel was loaded and are what was loaded there.

    Equal to it, or changed as :mod:`.patching` knows it: nothing else lies at its address.

    The virtual address and the physical one have to say the same, as another kernel, from
    before a reboot, may have lain at either of them.

    :param deadline: of the thread's processor time; changed blocks beyond stay open.
    """
    if kernel_module(seen) != text.module or seen.kernel.kaslr_offset != text.kaslr_offset:
        return
    rows, offset = _at_home(board, seen, len(text.content))
    size, start = board.blocks.size[rows], board.blocks.start[rows]
    same = same_bytes(board.blocks.code, start, text.content, offset.astype(np.int64), size)
    for row in np.flatnonzero(~same).tolist():
        if time.thread_time() > deadline:
            break
        same[row] = text.patches.explain(int(offset[row]), board.blocks.bytes_of(int(rows[row])))
    board.place(rows[same], board.number(text.module), offset[same])


def _at_home(board: Board, seen: Observation, length: int) -> tuple[I64, U64]:
    """Open blocks that ran in the kernel's image, and their offsets in its ``length`` bytes."""
    rows, at = common_rows(board.blocks, seen)
    still = board.open[rows]
    rows, at = rows[still], at[still]
    offset = seen.physical[at] - np.uint64(seen.kernel.physical)
    base = board.blocks.pc[rows] - offset
    good = (base == np.uint64(seen.kernel.base)) | (base == np.uint64(seen.kernel.physical))
    size = board.blocks.size[rows]
    good &= offset < np.uint64(length)
    good &= offset + size.astype(np.uint64) <= np.uint64(length)
    return rows[good], offset[good]
