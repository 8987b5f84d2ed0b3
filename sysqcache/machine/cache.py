# SPDX-License-Identifier: GPL-2.0-or-later
"""What a machine's start and end need of the store; its faults never stop a machine."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sysqcache.attribution.placer import AttributionSummary, Placer
from sysqcache.base import paths
from sysqcache.base.errors import StoreError
from sysqcache.base.system import few_files, shortage
from sysqcache.base.types import RunInfo
from sysqcache.formats.block import left_out_words
from sysqcache.formats.modules import Module
from sysqcache.formats.runfiles import Note, RunFiles
from sysqcache.machine.helper.scan import scan_image
from sysqcache.spec.spec import MachineSpec
from sysqcache.store.recording import IngestResult

if TYPE_CHECKING:
    from sysqcache.store.facade import Store

Warn = Callable[[str], None]


@dataclasses.dataclass(slots=True)
class StartSet:
    """What one start gets from the store.

    ``packs`` to map, ``files`` to write (None: nothing is recorded), ``fds`` that QEMU
    inherits: they keep the packs from being removed while it runs. ``left_out``: a pack
    was too damaged to be mapped; ``packs_left_out``: so many more than an engine maps.
    ``claims``: what makes the run ours to keep.
    """

    run: RunInfo
    image_id: str
    packs: list[Path] = dataclasses.field(default_factory=list)
    files: RunFiles | None = None
    fds: list[int] = dataclasses.field(default_factory=list)
    claims: list[int] = dataclasses.field(default_factory=list)
    left_out: bool = False
    packs_left_out: int = 0

    @property
    def journal(self) -> Path | None:
        """Where the engine records."""
        return None if self.files is None else self.files.path

    def close(self) -> None:
        """Close our copies of the descriptors; QEMU keeps its own. May be called twice."""
        while self.fds:
            os.close(self.fds.pop())

    def give_up(self) -> None:
        """Close everything: from now on whoever wants may keep the run. May be called twice."""
        self.close()
        while self.claims:
            os.close(self.claims.pop())


@dataclasses.dataclass(slots=True)
class Kept:
    """A run that was kept when its machine and its command had gone."""

    run: RunInfo
    attribution: AttributionSummary
    ingest: IngestResult

    def to_json(self) -> dict[str, Any]:
        """The run's name and machine, and what became of its blocks."""
        return {
            "run": self.run.run_id,
            "machine": self.run.machine,
            "ingest_s": round(self.ingest.seconds, 4),
            "blocks_new": self.ingest.blocks_new,
            "blocks_known": self.ingest.blocks_known,
            "attribution": self.attribution.to_json(),
        }


class StoreUse:
    """The store as a start uses it; every problem is a line for ``warn``."""

    def __init__(
        self,
        warn: Warn,
        root: Path | None = None,
        *,
        progress: Warn = lambda _: None,
        patience: float | None = None,
    ) -> None:
        """:param patience: seconds to wait for the store's lock; None: as always."""
        self._warn, self._progress = warn, progress
        self._patience = patience
        self._root = root or paths.store_dir()

    def _try(self, problem: str, action: Callable[[Store], None]) -> bool:
        """Do ``action`` with the store; False, with a warning, when that failed."""
        try:
            from sysqcache.store.facade import Store
            from sysqcache.store.layout import LOCK_TIMEOUT

            with Store.open(self._root, timeout=self._patience or LOCK_TIMEOUT) as store:
                try:
                    action(store)
                finally:
                    for warning in store.warnings:
                        self._warn(warning)
        except Exception as error:
            if not isinstance(error, StoreError) and shortage(error) is None:
                raise
            hint = getattr(error, "hint", "")
            self._warn(f"{problem}: {error}" + (f" ({hint})" if hint else ""))
            return False
        return True

    def prepare(self, spec: MachineSpec, start: str = "boot") -> StartSet:
        """What to map and where to record; empty when the store can't be used.

        :param start: how the machine starts, as in the JSON of ``resume``.
        """
        mode = spec.cache.mode
        run = RunInfo(
            new_run_id(spec.name), spec.name, str(spec.arch), str(mode), time.time(), start
        )
        found = StartSet(run, spec.image_id)

        def fill(store: Store) -> None:
            found.fds.append(store.hold())
            found.packs = store.boot_set(
                spec.image_id, str(spec.arch), lambda: self._contents(spec)
            )
            found.left_out = store.damage_seen
            found.packs_left_out = store.packs_left_out
            if store.packs_left_out:
                self._warn(left_out_words(store.packs_left_out))
            if mode.records:
                journal = store.new_journal(image_id=spec.image_id, run=run)
                found.files = RunFiles(journal)
                claimed = found.files.claim()
                found.claims += [claimed] if claimed is not None else []

        if words := few_files():
            self._warn(words)
        self._try("starting without kept blocks, recording none", fill)
        return found

    def _contents(self, spec: MachineSpec) -> list[Module] | None:
        """What an image contains that never ran, read from its files."""
        self._progress("looking into the image")
        with scan_image(spec) as contents:
            for note in contents.notes:
                self._warn(f"the image was not read in full: {note}")
            return sorted(contents.found.modules())

    def keep(
        self,
        start: StartSet,
        *,
        counters: Mapping[str, int] | None = None,
        damaged: bool = False,
    ) -> IngestResult:
        """Take the journal of an ended run into the store.

        When the store can't be used now, the journal stays for a later command.

        :param counters: what the engine counted.
        :param damaged: the engine found damage in packs. The blocks there would count as
            known, and stay lost, so damaged packs are set aside first.
        """
        start.close()
        try:
            return self._keep(start, counters, damaged)
        finally:
            start.give_up()

    def _keep(
        self, start: StartSet, counters: Mapping[str, int] | None, damaged: bool
    ) -> IngestResult:
        kept: list[IngestResult] = []
        files = start.files
        if files is None:
            return IngestResult()
        if not files.path.exists():
            # nothing was written, as when the engine can't use the cache: nothing stays beside it
            with contextlib.suppress(OSError):
                files.remove()
            return IngestResult()

        def ingest(store: Store) -> None:
            if damaged or start.left_out:
                _set_aside_damaged(store, self._warn)
            result = store.ingest(files, image_id=start.image_id, run=start.run, counters=counters)
            store.warnings += result.warnings
            kept.append(result)

        self._try("this run's blocks are not kept yet", ingest)
        return kept[0] if kept else IngestResult()

    def hand_on(
        self, start: StartSet, *, counters: Mapping[str, int], damaged: bool = False
    ) -> None:
        """Leave an ended run to whoever comes first; the parameters are those of :meth:`keep`."""
        if start.files is not None:
            start.files.count(counters, damaged=damaged or start.left_out)
        start.give_up()

    def sweep(self, listener: Callable[[Kept], None] = lambda _: None) -> int:
        """Keep the journals of runs that ended without their controller; their number.

        :param listener: told of each.
        """
        if not any((self._root / paths.STORE_JOURNALS).glob(f"*{paths.JOURNAL_SUFFIX}")):
            return 0
        kept: list[Kept] = []

        def recover(store: Store) -> None:
            found = AttributionSummary()

            def place(files: RunFiles, note: Note) -> None:
                nonlocal found
                if note.damaged:
                    _set_aside_damaged(store, self._warn)
                found = AttributionSummary()
                Placer(files, found, self._warn, scan=scan_image).place_handed_on()

            for note, result in store.recovering(place):
                kept.append(Kept(note.run, found, result))
                listener(kept[-1])

        self._try("blocks of an earlier run are not kept yet", recover)
        return len(kept)


def _set_aside_damaged(store: Store, warn: Warn) -> None:
    report = store.rebuild()
    for moved in report.moved:
        warn(f"a damaged pack was set aside: {moved}; {report.salvaged:,} blocks were saved")


def new_run_id(machine: str) -> str:
    """A name that no other run has, sorting by time."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return f"{stamp}-{machine}-{secrets.token_hex(4)}"
