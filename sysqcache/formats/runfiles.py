# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of one run: its journal, and beside it a note and the places of its blocks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sysqcache.base import paths
from sysqcache.base.errors import FormatError
from sysqcache.base.files import replace_file
from sysqcache.base.mapfile import read_small
from sysqcache.base.statefile import DAMAGED_JSON
from sysqcache.base.types import RunInfo

if TYPE_CHECKING:
    from sysqcache.formats.journal import Journal
    from sysqcache.formats.places import Places

_NOTE_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Note:
    """What a journal does not say itself: its image, its run, what the engine counted so far."""

    image_id: str
    run: RunInfo
    counters: Mapping[str, int] = field(default_factory=dict)


class RunFiles:
    """One run's files, there or not.

    A journal that was read is kept as long as nothing is written to it: the last look, the
    placing and the ingest of a run share what was parsed and checked once.
    """

    def __init__(self, journal: Path) -> None:
        self.path = journal
        self.note = journal.with_name(journal.name + paths.JOURNAL_NOTE_SUFFIX)
        """The note's file."""
        self.places = journal.with_name(journal.name + paths.JOURNAL_PLACES_SUFFIX)
        """The file that says to which modules the blocks belong."""
        self._kept: tuple[tuple[int, int, int], Journal] | None = None

    def read_journal(self) -> Journal:
        """The journal as it is now. Raises FormatError, OSError."""
        from sysqcache.formats.journal import read_journal

        now = self._state()
        if self._kept is None or now is None or self._kept[0] != now:
            # the state is older than what is read: what is written meanwhile is read again
            journal = read_journal(self.path)
            self._kept = None if now is None else (now, journal)
            return journal
        return self._kept[1]

    def _state(self) -> tuple[int, int, int] | None:
        try:
            info = self.path.stat()
        except OSError:
            return None
        return info.st_ino, info.st_size, info.st_mtime_ns

    def read_places(self) -> Places:
        """What was found out about the blocks; nothing when that is damaged. Raises OSError."""
        from sysqcache.formats.places import Places, read_places

        try:
            return read_places(self.places) if self.places.exists() else Places.nothing()
        except FormatError:
            return Places.nothing()

    def write_places(self, found: Places) -> None:
        """Write down to which modules the blocks belong. Raises OSError."""
        replace_file(self.places, found.encode(), synced=True)

    def read_note(self) -> Note:
        """Whose journal this is. Raises FormatError, OSError when that can't be read."""
        content = read_small(self.note, _NOTE_MAX_BYTES)
        try:
            values = json.loads(content)
            counters = {str(n): int(c) for n, c in dict(values.get("counters", {})).items()}
            return Note(str(values["image_id"]), RunInfo.from_json(values["run"]), counters)
        except DAMAGED_JSON as error:
            raise FormatError(f"{self.note} can't be read: {error}") from error

    def write_note(self, note: Note) -> None:
        """Say whose journal this will be, before the engine starts. Raises OSError."""
        content: dict[str, Any] = {"image_id": note.image_id, "run": note.run.to_json()}
        if note.counters:
            content["counters"] = dict(note.counters)
        replace_file(self.note, json.dumps(content).encode(), synced=True)

    def count(self, counters: Mapping[str, int]) -> None:
        """Write down what the engine has counted, for whoever keeps the journal; never fails."""
        with contextlib.suppress(FormatError, OSError):
            self.write_note(replace(self.read_note(), counters=counters))

    def remove(self) -> None:
        """Remove the journal, then what lies beside it. Raises OSError."""
        self.path.unlink(missing_ok=True)
        self.remove_beside()

    def remove_beside(self) -> None:
        """Remove what lies beside the journal. Raises OSError."""
        self.places.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
