# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers for immediates, displacements and distances, chosen by the engine's rule.

The rule is ``tcg_guest_imm_opaque()`` in engine/src/include/tcg/guest-imm.h: an address is opaque
below -16 MiB, a distance from 64 MiB on in either direction.
"""

from __future__ import annotations

from enum import Enum
from random import Random
from typing import Final

MIB: Final = 1 << 20
LOWEST: Final = -(1 << 31)
HIGHEST: Final = (1 << 31) - 1
ADDRESS_END: Final = -16 * MIB
FAR: Final = 64 * MIB

_BORDERS: Final = (LOWEST, -FAR, ADDRESS_END, FAR, HIGHEST)
EDGES: Final = tuple(
    value
    for border in _BORDERS
    for value in (border - 1, border, border + 1)
    if LOWEST <= value <= HIGHEST
)
"""The rule's borders with their neighbours."""

TINY: Final = (-129, -128, -1, 0, 1, 127, 128)
"""Numbers for which translators have shorter ways."""


class Range(Enum):
    """Numbers for which the rule says the same."""

    BOTH = (LOWEST, -FAR - 1)
    """Opaque as an address and as a distance."""

    ADDRESS = (-FAR, ADDRESS_END - 1)
    """Opaque as an address alone."""

    NEITHER = (ADDRESS_END, FAR - 1)

    DISTANCE = (FAR, HIGHEST)
    """Opaque as a distance alone."""

    def pick(self, random: Random) -> int:
        """Any number of the range; half of them are multiples of 64, as vectors want it."""
        first, last = self.value
        value = random.randint(first, last)
        return max(value & -64, first) if random.random() < 0.5 else value


def border(random: Random) -> int:
    """A number that asks the rule a question."""
    if random.random() < 0.5:
        return random.choice(EDGES)
    if random.random() < 0.1:
        return random.choice(TINY)
    return random.choice(tuple(Range)).pick(random)


def far_border(random: Random) -> int:
    """As :func:`border`, but no distance to the middle of an instruction nearby."""
    while True:
        value = border(random)
        if value == 0 or abs(value) > 4 * MIB:
            return value
