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
from typing import TYPE_CHECKING

from sysqcache.base import paths
from sysqcache.base.errors import StoreError
from sysqcache.base.system import few_files, shortage
from sysqcache.base.types import RunInfo
from sysqcache.formats.block import left_out_words
from sysqcache.formats.modules import Module
from sysqcache.formats.runfiles import RunFiles
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
    """

    run: RunInfo
    image_id: str
    packs: list[Path] = dataclasses.field(default_factory=list)
    files: RunFiles | None = None
    fds: list[int] = dataclasses.field(default_factory=list)
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


class Keeper:
    """The store as a start uses it; every problem is a line for ``warn``."""

    def __init__(
        self, warn: Warn, root: Path | None = None, *, progress: Warn = lambda _: None
    ) -> None:
        self._warn, self._progress = warn, progress
        self._root = root or paths.store_dir()

    def _try(self, problem: str, action: Callable[[Store], None]) -> bool:
        """Do ``action`` with the store; False, with a warning, when that failed."""
        try:
            from sysqcache.store.facade import Store

            with Store.open(self._root) as store:
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

    def sweep(self) -> int:
        """Keep the journals of runs that ended without their controller; their number."""
        if not any((self._root / paths.STORE_JOURNALS).glob(f"*{paths.JOURNAL_SUFFIX}")):
            return 0
        kept: list[int] = []

        def recover(store: Store) -> None:
            kept.append(len(store.recover()))

        self._try("blocks of an earlier run are not kept yet", recover)
        return sum(kept)


def _set_aside_damaged(store: Store, warn: Warn) -> None:
    report = store.rebuild()
    for moved in report.moved:
        warn(f"a damaged pack was set aside: {moved}; {report.salvaged:,} blocks were saved")


def new_run_id(machine: str) -> str:
    """A name that no other run has, sorting by time."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return f"{stamp}-{machine}-{secrets.token_hex(4)}"
