# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel makes of the places where functions can be traced, when it starts.

The compiler leaves room at the start of each function. Kernels with CONFIG_DYNAMIC_FTRACE
prepare it early in the boot, in ``__init`` code too, which is freed before anybody looks:
ftrace_init_nop() of the kernel.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from sysqcache.attribution.blocks import U8

_PREPARED: Final = (
    # arm64: nop, nop -> mov x9, x30; nop
    (bytes.fromhex("1f2003d51f2003d5"), bytes.fromhex("e9031eaa1f2003d5")),
    # RISC-V: four short nops -> two long ones
    (bytes.fromhex("0100010001000100"), bytes.fromhex("1300000013000000")),
)
_FEWEST: Final = 1_000
"""Functions of a kernel that can be traced; others of these bytes are chance."""


def prepared(content: U8) -> U8:
    """A kernel's bytes with these places prepared; empty when there are none.

    A block that equals either form is that code: nothing else lies at its address.
    """
    raw = content.tobytes()
    for room, made in _PREPARED:
        if raw.count(room) >= _FEWEST:
            return np.frombuffer(raw.replace(room, made), np.uint8)
    return np.zeros(0, np.uint8)
