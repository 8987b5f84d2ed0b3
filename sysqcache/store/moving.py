# SPDX-License-Identifier: GPL-2.0-or-later
"""Immediates of the guest's code that a block does not depend on.

A kernel that loads itself at a random address differs from boot to boot in 32-bit
immediates. The engine marks those that it translated without looking at their value
(engine/src/include/tcg/guest-imm.h has the rule); such a block is the same block
whatever they hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sysqcache.formats import block as bf

if TYPE_CHECKING:
    from sysqcache.formats.blocktable import BlockTable


def masked(guest: bytes | memoryview, imms: bf.Records) -> bytes:
    """``guest`` with every moving immediate replaced by zeros."""
    code = bytearray(guest)
    for value in imms["guest"].tolist():
        offset = value & ~bf.IMM_RELATIVE
        code[offset : offset + bf.IMM_BYTES] = bytes(bf.IMM_BYTES)
    return bytes(code[: len(guest)])


def moving_rows(table: BlockTable) -> list[int]:
    """Rows of single-page blocks that have moving immediates."""
    movable = (table.imm_counts() > 0) & (table.headers["block_flags"] & bf.BLOCK_TWO_PAGES == 0)
    rows: list[int] = movable.nonzero()[0].tolist()
    return rows
