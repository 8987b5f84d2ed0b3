# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel code that is no longer what it was: freed after the boot, or patched."""

from __future__ import annotations

import numpy as np

from sysqcache.attribution.address import common_rows, kernel_module
from sysqcache.attribution.blocks import U8, same_bytes
from sysqcache.attribution.board import Board
from sysqcache.attribution.observation import Observation
from sysqcache.attribution.truths import KernelText
from sysqcache.formats.modules import Module


def place_in_kernel(board: Board, seen: Observation, text: KernelText) -> None:
    """Place blocks that ran where the kernel was loaded and equal what was loaded there.

    The virtual address and the physical one have to say the same, as another kernel, from
    before a reboot, may have lain at either of them.
    """
    if kernel_module(seen) != text.module or seen.kernel.kaslr_offset != text.kaslr_offset:
        return
    for content in (text.content, text.prepared):
        _place_equal(board, seen, text.module, content)


def _place_equal(board: Board, seen: Observation, module: Module, content: U8) -> None:
    rows, at = common_rows(board.blocks, seen)
    still = board.open[rows]
    rows, at = rows[still], at[still]
    offset = seen.physical[at] - np.uint64(seen.kernel.physical)
    base = board.blocks.pc[rows] - offset
    good = (base == np.uint64(seen.kernel.base)) | (base == np.uint64(seen.kernel.physical))
    size = board.blocks.size[rows]
    good &= (offset < np.uint64(len(content))) & (
        offset + size.astype(np.uint64) <= np.uint64(len(content))
    )
    rows, offset, size = rows[good], offset[good], size[good]
    start = board.blocks.start[rows]
    same = same_bytes(board.blocks.code, start, content, offset.astype(np.int64), size)
    board.place(rows[same], board.number(module), offset[same])
