# SPDX-License-Identifier: GPL-2.0-or-later
"""Journals that wait in the store: their names, and who still writes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path

from sysqcache.base import paths
from sysqcache.base.errors import FormatError
from sysqcache.base.files import STALE_S, held
from sysqcache.base.mapfile import open_private
from sysqcache.formats.runfiles import RunFiles
from sysqcache.store.layout import StoreLayout


def journal_path(layout: StoreLayout, run_id: str) -> Path:
    """Where the engine writes the journal of a run."""
    return layout.journals / f"{run_id}{paths.JOURNAL_SUFFIX}"


def is_being_written(journal: Path) -> bool:
    """Whether a process has the journal open for writing. Raises FormatError."""
    with held(open_private(journal)) as fd:
        try:
            # a read lease is refused while anybody has the file open for writing
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return True
            return _open_by_any_process(journal)  # a file system without leases
    return False


def _open_by_any_process(journal: Path) -> bool:
    target, own = str(journal.resolve()), str(os.getpid())
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or process.name == own:
            continue
        with contextlib.suppress(OSError):
            if any(os.readlink(fd) == target for fd in (process / "fd").iterdir()):  # noqa: PTH115
                return True
    return False


def leftovers(layout: StoreLayout) -> list[Path]:
    """Journals that nobody writes any more, oldest first; stale notes are removed."""
    found = []
    for path in layout.journals.glob(f"*{paths.JOURNAL_SUFFIX}"):
        with contextlib.suppress(FormatError, OSError):
            if not is_being_written(path):
                found.append((path.stat().st_mtime, path))
    for note in layout.journals.glob(f"*{paths.JOURNAL_SUFFIX}{paths.JOURNAL_NOTE_SUFFIX}"):
        journal = note.with_name(note.name.removesuffix(paths.JOURNAL_NOTE_SUFFIX))
        with contextlib.suppress(OSError):
            if not journal.exists() and note.stat().st_mtime < time.time() - STALE_S:
                RunFiles(journal).remove()
    return [path for _, path in sorted(found)]
