# SPDX-License-Identifier: GPL-2.0-or-later
"""The states of the processor in which snippets run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_DATA, _USER_DATA = 0x10, 0x2B
_STACK16, _USER_STACK16 = 0x48, 0x53


@dataclass(frozen=True)
class Mode:
    """A code segment of ``kernel.S``, and what it makes of code.

    :param bits: default size of the code: 64, 32 or 16.
    :param cs: the selector; its two low bits are the ring.
    """

    name: str
    bits: int
    cs: int
    ss: int

    @property
    def ring(self) -> int:
        """Privilege level."""
        return self.cs & 3


KERNEL64: Final = Mode("64-bit, ring 0", 64, 0x08, _DATA)
USER64: Final = Mode("64-bit, ring 3", 64, 0x33, _USER_DATA)
KERNEL32: Final = Mode("32-bit, ring 0", 32, 0x18, _DATA)
USER32: Final = Mode("32-bit, ring 3", 32, 0x3B, _USER_DATA)
KERNEL16: Final = Mode("16-bit, ring 0", 16, 0x20, _STACK16)
USER16: Final = Mode("16-bit, ring 3", 16, 0x43, _USER_STACK16)

MODES: Final = (KERNEL64, USER64, KERNEL32, USER32, KERNEL16, USER16)
WEIGHTS: Final = (12, 2, 2, 1, 2, 1)
"""How often each is chosen: only the first can have moving immediates."""
