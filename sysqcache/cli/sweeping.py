# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeping the blocks of runs that ended without their controller."""

from __future__ import annotations

from sysqcache.cli.loglines import note


def sweep(*, wait: bool) -> None:
    """Take journals that were left behind into the store, remove what else was; never fails.

    :param wait: until they are kept; else a keeper does that behind the command.
    """
    from sysqcache.base.errors import StoreError
    from sysqcache.machine import keeping
    from sysqcache.machine.cache import StoreUse
    from sysqcache.machine.instances import tidy_dead

    tidy_dead()
    if not wait:
        if runs := keeping.catch_up():
            words = "an ended run" if runs == 1 else f"{runs} ended runs"
            note(f"keeping the blocks of {words} goes on behind (sysqcache cache wait)")
        return
    try:
        keeping.settle()
    except StoreError as error:
        note(f"warning: {error.message}")
    runs = StoreUse(lambda text: note(f"warning: {text}")).sweep()
    if runs:
        note(f"kept the blocks of {runs} earlier run{'s' if runs > 1 else ''}")
