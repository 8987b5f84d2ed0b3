# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run translated is kept behind its back, if it is much: the next one starts warm.

A run that found nearly everything in the packs leaves a small journal, which goes with its
machine. A larger one is given to the store by a process of its own, which has time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.base.types import RunInfo
from sysqcache.formats.runfiles import Note, RunFiles
from sysqcache.machine.cache import Keeper, new_run_id
from sysqcache.run.plan import Plan

JOURNAL: Final = f"run{paths.JOURNAL_SUFFIX}"
"""In the machine's directory: nobody takes it into the store while it is written."""

WORTH: Final = 512 << 10
"""Bytes of a journal that is kept: about a thousand blocks."""

_NICE: Final = 19


def keep(plan: Plan, name: str, directory: Path) -> None:
    """Give the journal of a machine that has ended to the store, if that is worth it.

    Raises OSError; the journal is lost then.
    """
    journal = directory / JOURNAL
    if not journal.exists() or journal.stat().st_size < WORTH:
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
    subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )


def main() -> None:
    """Take the journals that wait into the store."""
    os.nice(_NICE)
    Keeper(lambda _: None).sweep()


if __name__ == "__main__":
    main()
