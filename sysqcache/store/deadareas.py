# SPDX-License-Identifier: GPL-2.0-or-later
"""Places of modules where code rewrites itself: what they cover, how they end.

The engine reports a place when other code was found there again and again after
writes. A page that is merely reused never gets there, so an entry means that blocks
recorded at this place are not worth keeping.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from typing import Final

import numpy as np

from sysqcache.formats.blocktable import Mask
from sysqcache.formats.journal import Journal
from sysqcache.formats.modules import ModuleKind
from sysqcache.formats.places import NO_MODULE, Places
from sysqcache.store.columns import StorePlaces
from sysqcache.store.records import DeadRow
from sysqcache.store.registry import Registry

CLEAN_RUNS: Final = 3
"""After so many runs that used a module and left the place alone it lives again."""

REWRITTEN: Final = "rewrites itself"

UNPLACED: Final = ModuleKind.JIT
"""What places of no module count under: code that rewrites itself is mostly made at run time."""


@dataclasses.dataclass(frozen=True)
class Report:
    """A place that a run found dead."""

    module: int
    offset: int
    size: int
    changes: int


def reports(journal: Journal, found: Places, registry: Registry) -> list[Report]:
    """The dead places of a run that lie in modules."""
    columns = (found.dead_ram, found.dead_module, found.dead_offset)
    places = zip(*(column.tolist() for column in columns), strict=True)
    placed = {ram: (module, offset) for ram, module, offset in places if module != NO_MODULE}
    result = []
    areas = (journal.dead[name].tolist() for name in ("ram_addr", "size", "changes"))
    for ram, size, changes in zip(*areas, strict=True):
        if ram in placed:
            module, offset = placed[ram]
            number = registry.number(found.modules[module])
            result.append(Report(number, offset, max(size, 1), changes))
    return result


class DeadAreas:
    """All dead places of the store before and after a run.

    ``changed`` and ``revived`` are the rows to be written and to be removed.
    """

    def __init__(self, rows: Iterable[DeadRow]) -> None:
        self._rows = {(row.module, row.offset): row for row in rows}
        self.changed: list[DeadRow] = []
        self.revived: list[DeadRow] = []

    def __len__(self) -> int:
        return len(self._rows)

    def learn(self, run: int, found: Iterable[Report], used: Collection[int]) -> None:
        """Take in what run ``run`` found; ``used``: numbers of the modules that it used."""
        for report in found:
            self._die(run, report)
        for place, row in list(self._rows.items()):
            if row.last_run == run or row.module not in used:
                continue
            clean = dataclasses.replace(row, clean_runs=row.clean_runs + 1)
            if clean.clean_runs < CLEAN_RUNS:
                self._rows[place] = clean
                self.changed.append(clean)
            else:
                del self._rows[place]
                self.revived.append(clean)

    def _die(self, run: int, report: Report) -> None:
        place = (report.module, report.offset)
        old = self._rows.get(place) or DeadRow(*place, 0, 0, REWRITTEN, run, run)
        row = dataclasses.replace(
            old,
            size=max(old.size, report.size),
            changes=old.changes + report.changes,
            last_run=run,
            clean_runs=0,
        )
        self._rows[place] = row
        self.changed.append(row)

    def cover(self, places: StorePlaces) -> Mask:
        """Which blocks begin in a dead place: shape (n,)."""
        covered: Mask = np.zeros(len(places.module), np.bool_)
        for row in self._rows.values():
            inside = (places.offset >= row.offset) & (places.offset < row.offset + row.size)
            covered |= inside & (places.module == row.module)
        return covered
