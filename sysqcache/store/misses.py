# SPDX-License-Identifier: GPL-2.0-or-later
"""Why blocks of one run missed, as kept when the run was taken in, for `cache why`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping

from sysqcache.store.meta import Meta
from sysqcache.store.records import ModuleRow, RunRow
from sysqcache.store.summary import NOBODY


@dataclasses.dataclass(frozen=True)
class ModuleMisses:
    """Blocks of one module that a run had to translate, by reason (``why.Why``)."""

    row: ModuleRow
    reasons: Mapping[str, int]

    @property
    def blocks(self) -> int:
        """For all reasons together."""
        return sum(self.reasons.values())


@dataclasses.dataclass(frozen=True)
class RunMisses:
    """One kept run.

    :param modules: those with most misses first; empty for a run that nothing was kept
        before of its fingerprint.
    :param first: no earlier kept run had this run's fingerprint.
    """

    run: RunRow
    modules: tuple[ModuleMisses, ...]
    first: bool

    @property
    def reasons(self) -> dict[str, int]:
        """Blocks by reason, all modules together, the most frequent first."""
        total: Counter[str] = Counter()
        for module in self.modules:
            total.update(module.reasons)
        return dict(total.most_common())

    @property
    def recorded(self) -> int:
        """Intact blocks that the run translated and recorded."""
        run = self.run
        return run.blocks_new + run.blocks_known + run.blocks_dead + run.crowded_new


def misses(meta: Meta, name: str) -> RunMisses | None:
    """The run ``name``, or the last run of the machine ``name``; None if none is kept."""
    runs = meta.runs()
    run = find(runs, name)
    if run is None:
        return None
    rows = {0: NOBODY} | meta.modules()
    found = [
        ModuleMisses(rows.get(number, NOBODY), reasons)
        for number, reasons in meta.why(run.number).items()
    ]
    found.sort(key=lambda m: (-m.blocks, m.row.number))
    before = any(r.fingerprint == run.fingerprint and r.number < run.number for r in runs)
    return RunMisses(run, tuple(found), not before)


def find(runs: Iterable[RunRow], name: str) -> RunRow | None:
    """The run with this id, else the last one of the machine with this name."""
    last = None
    for run in runs:
        if run.run_id == name:
            return run
        if run.machine == name:
            last = run
    return last
