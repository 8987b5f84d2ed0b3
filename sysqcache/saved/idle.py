# SPDX-License-Identifier: GPL-2.0-or-later
"""When a guest has nothing left to do: the moment to save what others begin with.

Work that a guest is in the middle of is done again by each resume, and by each copy of a
template: in time, and in memory that a copy can't share.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

LIMIT_S: Final = 1.0
"""How long a guest that stays busy is waited for."""

WINDOW_S: Final = 0.1
_IDLE_SHARE: Final = 0.15
"""Of one processor; QEMU's own threads and the guest's clock ticks stay below it."""


def wait_until_idle(
    cpu_seconds: Callable[[], float],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until a machine hardly uses CPU time, for :data:`LIMIT_S` at most.

    :param cpu_seconds: CPU time that QEMU has used so far.
    :return: whether it came to rest.
    """
    end = clock() + LIMIT_S
    used, at = cpu_seconds(), clock()
    while at < end:
        sleep(WINDOW_S)
        now_used, now = cpu_seconds(), clock()
        if now_used - used <= _IDLE_SHARE * (now - at):
            return True
        used, at = now_used, now
    return False
