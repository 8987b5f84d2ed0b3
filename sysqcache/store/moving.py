# SPDX-License-Identifier: GPL-2.0-or-later
"""Immediates of the guest's code that a block does not depend on.

A kernel that loads itself at a random address differs from boot to boot in 32-bit
immediates. The engine marks those that it translated without looking at their value
(engine/src/include/tcg/guest-imm.h has the rule); such a block is the same block
whatever they hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sysqcache.formats import block as bf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sysqcache.formats.blocktable import BlockTable

_FAR: Final = 64 << 20
_NEAR_END: Final = -(16 << 20)


def windows(imms: bf.Records) -> Iterator[tuple[int, bool]]:
    """(offset in the guest code, whether it is a distance) of each immediate."""
    for value in imms["guest"].tolist():
        yield value & ~bf.IMM_RELATIVE, bool(value & bf.IMM_RELATIVE)


def masked(guest: bytes | memoryview, imms: bf.Records) -> bytes:
    """``guest`` with every moving immediate replaced by zeros."""
    code = bytearray(guest)
    for offset, _relative in windows(imms):
        code[offset : offset + bf.IMM_BYTES] = bytes(bf.IMM_BYTES)
    return bytes(code[: len(guest)])


def is_opaque(value: int, relative: bool) -> bool:
    """Whether the engine would not look at the immediate ``value`` (signed, 32 bits)."""
    if relative:
        return not -_FAR <= value < _FAR
    return value < _NEAR_END


def fits(block: memoryview, imms: bf.Records, guest: bytes) -> bool:
    """Whether guest code differs from a block's own in moving immediates alone."""
    for offset, relative in windows(imms):
        value = int.from_bytes(guest[offset : offset + bf.IMM_BYTES], "little", signed=True)
        if not is_opaque(value, relative):
            return False
    return masked(block, imms) == masked(guest, imms)


def moving_rows(table: BlockTable) -> list[int]:
    """Rows of single-page blocks that have moving immediates."""
    movable = (table.imm_counts() > 0) & (table.headers["block_flags"] & bf.BLOCK_TWO_PAGES == 0)
    rows: list[int] = movable.nonzero()[0].tolist()
    return rows
