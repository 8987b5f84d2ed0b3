# SPDX-License-Identifier: GPL-2.0-or-later
"""Journals that wait in the store: their names, notes beside them, and who still writes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.base.errors import FormatError
from sysqcache.base.files import replace_file
from sysqcache.base.mapfile import open_private, read_private
from sysqcache.base.types import RunInfo
from sysqcache.formats.places import Places
from sysqcache.store.layout import StoreLayout

_NOTE_MAX_BYTES: Final = 1 << 20
_STALE_NOTE_S: Final = 86400.0


@dataclass(frozen=True)
class Note:
    """What a journal does not say itself: its image and its run."""

    image_id: str
    run: RunInfo


def journal_path(layout: StoreLayout, run_id: str) -> Path:
    """Where the engine writes the journal of a run."""
    return layout.journals / f"{run_id}{paths.JOURNAL_SUFFIX}"


def note_path(journal: Path) -> Path:
    """The note beside a journal."""
    return journal.with_name(journal.name + paths.JOURNAL_NOTE_SUFFIX)


def places_path(journal: Path) -> Path:
    """Where it is written down to which modules a journal's blocks belong."""
    return journal.with_name(journal.name + paths.JOURNAL_PLACES_SUFFIX)


def write_places(journal: Path, found: Places) -> None:
    """Write down to which modules a journal's blocks belong. Raises OSError."""
    replace_file(places_path(journal), found.encode(), synced=True)


def write_note(journal: Path, note: Note) -> None:
    """Say whose journal this will be, before the engine starts. Raises OSError."""
    content = {"image_id": note.image_id, "run": note.run.to_json()}
    replace_file(note_path(journal), json.dumps(content).encode(), synced=True)


def read_note(journal: Path) -> Note:
    """The note beside a journal. Raises FormatError when there is none to be read."""
    path = note_path(journal)
    content, _ = read_private(path, _NOTE_MAX_BYTES)
    try:
        values = json.loads(content)
        return Note(str(values["image_id"]), RunInfo.from_json(values["run"]))
    except (ValueError, TypeError, KeyError) as error:
        raise FormatError(f"{path} can't be read: {error}") from error


def remove_journal(journal: Path) -> None:
    """Remove a journal, then what lies beside it. Raises OSError."""
    journal.unlink(missing_ok=True)
    places_path(journal).unlink(missing_ok=True)
    note_path(journal).unlink(missing_ok=True)


def is_being_written(journal: Path) -> bool:
    """Whether a process has the journal open for writing. Raises FormatError."""
    fd = open_private(journal)
    try:
        # a read lease is refused while anybody has the file open for writing
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return True
        return _open_by_any_process(journal)  # a file system without leases
    finally:
        os.close(fd)
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
            if not journal.exists() and note.stat().st_mtime < time.time() - _STALE_NOTE_S:
                remove_journal(journal)
    return [path for _, path in sorted(found)]
