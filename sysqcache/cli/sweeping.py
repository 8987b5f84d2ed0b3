# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeping the blocks of runs that ended without their controller."""

from __future__ import annotations

from sysqcache.cli.loglines import note


def sweep() -> None:
    """Take journals that were left behind into the store, remove what else was; never fails."""
    from sysqcache.machine.cache import Keeper
    from sysqcache.machine.instances import tidy_dead

    runs = Keeper(lambda text: note(f"warning: {text}")).sweep()
    tidy_dead()
    if runs:
        note(f"kept the blocks of {runs} earlier run{'s' if runs > 1 else ''}")
