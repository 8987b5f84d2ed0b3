# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run translated is kept behind its back, if it is much: the next one starts warm.

The journal of a run that found nearly everything in the packs goes with its machine. Another
one is given to the store by a process of its own, which has time; while that
is at work, what other runs recorded is thrown away: it would be the same once more.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.base.files import is_locked, locked
from sysqcache.base.types import RunInfo
from sysqcache.formats.runfiles import Note, RunFiles
from sysqcache.machine.cache import Keeper, new_run_id
from sysqcache.run import behind
from sysqcache.run.plan import Plan, runs_dir

JOURNAL: Final = f"run{paths.JOURNAL_SUFFIX}"
"""In the machine's directory: nobody takes it into the store while it is written."""

WORTH: Final = 1000
"""Blocks that are worth a process: translating them takes some ten milliseconds."""

_NICE: Final = 19


def keep(plan: Plan, name: str, directory: Path) -> None:
    """Give the journal of a machine that has ended to the store, unless that is busy with one.

    Raises OSError; the journal is lost then.
    """
    journal = directory / JOURNAL
    if not journal.exists() or is_locked(_lock()):
        return
    state = plan.state
    run = RunInfo(
        new_run_id(name), name, state["arch"], state["cache_mode"], time.time(), state["start"]
    )
    folder = paths.store_dir() / paths.STORE_JOURNALS
    kept = RunFiles(folder / f"{run.run_id}{paths.JOURNAL_SUFFIX}")
    # before the journal: one without a note is nobody's
    kept.write_note(Note(state["image_id"], run))
    shutil.move(journal, kept.path)
    behind.begin(["-m", __name__])


def _lock() -> Path:
    """Held by the process that keeps."""
    return runs_dir() / "keep.lock"


def main() -> None:
    """Take the journals that wait into the store, alone."""
    os.nice(_NICE)
    with locked(_lock()) as held:
        if held is not None:
            Keeper(lambda _: None).sweep()


if __name__ == "__main__":
    main()
