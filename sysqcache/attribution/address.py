# SPDX-License-Identifier: GPL-2.0-or-later
"""Places by address: the page's owner at the time of an observation, if the bytes agree."""

from __future__ import annotations

from typing import Final

import numpy as np

from sysqcache.attribution import evidence
from sysqcache.attribution.blocks import I64, U64, Mask, RecordedBlocks
from sysqcache.attribution.board import Board
from sysqcache.attribution.observation import Observation, Seen
from sysqcache.formats.modules import Module, ModuleKind
from sysqcache.formats.places import NO_MODULE
from sysqcache.guestmap.table import PAGE_BITS, Owner, OwnerKind

_KINDS: Final = {
    OwnerKind.FILE: ModuleKind.FILE,
    OwnerKind.KERNEL: ModuleKind.KERNEL,
    OwnerKind.KERNEL_MODULE: ModuleKind.KERNEL_MODULE,
}


def place_by_address(board: Board, seen: Observation) -> None:
    """Place what the observation confirms, and the dead areas."""
    module = np.array([_module_number(board, seen, one) for one in seen.owners], np.int32)
    board.kernel = board.kernel or kernel_module(seen)
    rows, at = common_rows(board.blocks, seen)

    def known(kind: OwnerKind) -> Mask:
        of_kind = np.array([one.kind == kind for one in seen.owners], bool)
        found: Mask = (of_kind & (module != NO_MODULE))[seen.owner[at]]
        return found

    same = seen.seen[at] == Seen.SAME
    good = same & known(OwnerKind.KERNEL) & _is_kernel(board.blocks, seen, rows, at)
    good |= same & known(OwnerKind.KERNEL_MODULE) & _is_module(board.blocks, seen, rows, at)
    good |= _is_file(board.blocks, seen, rows, at, known(OwnerKind.FILE))
    board.place(rows[good], module[seen.owner[at[good]]], seen.offset[at[good]])
    for ram, owner, offset in zip(
        seen.dead_ram.tolist(), seen.dead_owner.tolist(), seen.dead_offset.tolist(), strict=True
    ):
        board.bury(ram, int(module[owner]), offset)


def kernel_module(seen: Observation) -> Module | None:
    """The guest's kernel, if it has an identity."""
    kernel = seen.kernel
    if not kernel.build_id:
        return None
    return Module(ModuleKind.KERNEL, kernel.build_id, kernel.release)


def common_rows(blocks: RecordedBlocks, seen: Observation) -> tuple[I64, I64]:
    """Rows of the blocks that an observation knows, and their rows in it."""
    if not len(seen.record) or not len(blocks):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    at = np.minimum(np.searchsorted(seen.record, blocks.record), len(seen.record) - 1)
    rows = np.flatnonzero(seen.record[at] == blocks.record)
    return rows, at[rows]


def _module_number(board: Board, seen: Observation, owner: Owner) -> int:
    if not owner.has_offset or not owner.build_id or owner.kind not in _KINDS:
        return NO_MODULE
    name = seen.kernel.release if owner.kind == OwnerKind.KERNEL else owner.name
    return board.number(Module(_KINDS[owner.kind], owner.build_id, name))


def _is_kernel(blocks: RecordedBlocks, seen: Observation, rows: I64, at: I64) -> Mask:
    """Which blocks ran where the kernel's image runs, or where it lies, as its first code does."""
    base = blocks.pc[rows] - seen.offset[at]
    kernel = seen.kernel
    good: Mask = (base == np.uint64(kernel.base)) | (base == np.uint64(kernel.physical))
    return good


def _is_module(blocks: RecordedBlocks, seen: Observation, rows: I64, at: I64) -> Mask:
    """Which blocks ran inside the code of the module that has their page."""
    texts = {(one.name, one.build_id): one.text for one in seen.modules}
    start, end = np.array(
        [texts.get((one.name, one.build_id), (0, 0)) for one in seen.owners], np.uint64
    ).T
    owner = seen.owner[at]
    pc = blocks.pc[rows]
    good: Mask = pc - seen.offset[at] == start[owner]
    good &= (pc >= start[owner]) & (pc < end[owner])
    return good


def _is_file(blocks: RecordedBlocks, seen: Observation, rows: I64, at: I64, file: Mask) -> Mask:
    """Which blocks are code of the file that has their page now, as far as bytes prove it.

    A page that holds other bytes than a block of it was filled after that block: what was
    recorded before has to be found out otherwise, even where it is equal.
    """
    chosen = np.flatnonzero(file)
    page = blocks.ram[rows[chosen]] >> np.uint64(PAGE_BITS)
    state = seen.seen[at[chosen]]
    kept = evidence.after_last(page, state == Seen.OTHER) & (state == Seen.SAME)
    chosen, page = chosen[kept], page[kept]
    good = np.zeros(len(file), bool)
    good[chosen] = _proven(blocks, seen, rows[chosen], at[chosen], page)
    return good


def _proven(blocks: RecordedBlocks, seen: Observation, rows: I64, at: I64, page: U64) -> Mask:
    """Long blocks, blocks after others of their page, and blocks of one mapping together."""
    offset, size = seen.offset[at], blocks.size[rows]
    mapping = evidence.grouped(seen.owner[at], blocks.pc[rows] - offset)
    together = evidence.witnesses(mapping, offset, size) >= evidence.TOGETHER
    later = evidence.before(page, offset, size) >= evidence.TOGETHER
    return (size >= evidence.ALONE) | together | later
