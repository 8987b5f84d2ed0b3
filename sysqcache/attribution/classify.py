# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be said of blocks whose module nobody knows."""

from __future__ import annotations

from typing import Final

import numpy as np

from sysqcache.attribution.address import common_rows
from sysqcache.attribution.blobs import first_kernel_row
from sysqcache.attribution.blocks import U64, Mask
from sysqcache.attribution.board import Board
from sysqcache.attribution.observation import Observation, Seen
from sysqcache.formats.modules import ModuleKind
from sysqcache.guestmap.table import OwnerKind

_CONFIRMED: Final = {
    OwnerKind.FILE: ModuleKind.FILE,
    OwnerKind.KERNEL: ModuleKind.KERNEL,
    OwnerKind.KERNEL_MODULE: ModuleKind.KERNEL_MODULE,
    OwnerKind.JIT: ModuleKind.JIT,
    OwnerKind.FIRMWARE: ModuleKind.FIRMWARE,
}
"""Owners of pages that hold the very bytes; the kernel also owns what it gives to all
processes, such as the vDSO."""

_BY_ADDRESS: Final = {
    OwnerKind.KERNEL_MODULE: ModuleKind.KERNEL_MODULE,
    OwnerKind.JIT: ModuleKind.JIT,
}
"""Owners that are as good as certain in the area for modules, whatever the bytes are now:
what is patched there stays what it is."""

_HIGH: Final = np.uint64(0xFFFF_8000_0000_0000)
_REAL_MODE: Final = np.uint64(0x11_0000)


def classify(board: Board, observations: tuple[Observation, ...], handover: int = 0) -> None:
    """Give the blocks without a place a kind, where there is one that is sure.

    :param handover: the first row of a kernel's boot stub, 0 when none was found: what ran
        before it is firmware.
    """
    for seen in observations:
        _by_owner(board, seen)
    for seen in observations:
        _by_kernel(board, seen)
    _by_boot(board, observations)
    board.classify(np.arange(handover), ModuleKind.FIRMWARE)


def _by_owner(board: Board, seen: Observation) -> None:
    rows, at = common_rows(board.blocks, seen)
    owner = np.array([list(OwnerKind).index(one.kind) for one in seen.owners])[seen.owner[at]]
    pc, same = board.blocks.pc[rows], seen.seen[at] == Seen.SAME
    made = same & (owner == list(OwnerKind).index(OwnerKind.ANONYMOUS))
    board.classify(rows[made & _within(pc, seen.generated)], ModuleKind.JIT)
    board.classify(rows[made], ModuleKind.ANONYMOUS)
    for number, kind in enumerate(OwnerKind):
        if kind in _CONFIRMED:
            board.classify(rows[same & (owner == number)], _CONFIRMED[kind])
        if kind in _BY_ADDRESS:
            board.classify(rows[(owner == number) & (pc >= _HIGH)], _BY_ADDRESS[kind])


def _by_kernel(board: Board, seen: Observation) -> None:
    """Addresses of the kernel's own image are nobody else's."""
    pc, kernel = board.blocks.pc, seen.kernel
    inside = (pc >= np.uint64(kernel.base)) & (pc < np.uint64(kernel.end))
    board.classify(inside & (pc >= _HIGH), ModuleKind.KERNEL)


def _by_boot(board: Board, observations: tuple[Observation, ...]) -> None:
    """What ran in the first MiB before a kernel did: firmware's, as boot stubs run higher."""
    pc = board.blocks.pc
    if not any(seen.kernel.build_id for seen in observations):
        return
    early = np.arange(first_kernel_row(board.blocks))
    board.classify(early[pc[early] < _REAL_MODE], ModuleKind.FIRMWARE)


def _within(pc: U64, ranges: U64) -> Mask:
    """Which addresses lie in one of some ranges, which may overlap."""
    started = np.searchsorted(np.sort(ranges[:, 0]), pc, "right")
    ended = np.searchsorted(np.sort(ranges[:, 1]), pc, "right")
    inside: Mask = started > ended
    return inside
