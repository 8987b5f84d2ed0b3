# SPDX-License-Identifier: GPL-2.0-or-later
"""What a machine's start and end need of the store; its faults never stop a machine."""

from __future__ import annotations

import dataclasses
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from sysqcache import paths
from sysqcache.errors import StoreError
from sysqcache.report import IngestSummary
from sysqcache.spec import MachineSpec
from sysqcache.types import RunInfo

Warn = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Recording:
    """A run that records; QEMU inherits ``fds``, which mark its packs as in use."""

    run: RunInfo
    image_id: str
    journal: Path
    fds: tuple[int, ...] = ()

    def leave(self) -> None:
        """Let go of it: QEMU goes on, a later command keeps its blocks."""
        for fd in self.fds:
            os.close(fd)


@dataclasses.dataclass(frozen=True, slots=True)
class Keeper:
    """The store as the pipeline uses it; problems go to ``warn``."""

    warn: Warn
    root: Path = dataclasses.field(default_factory=paths.store_dir)

    def boot_set(self, spec: MachineSpec) -> list[Path]:
        """The packs to map for the next start; empty when the store can't be used."""
        from sysqcache.store.facade import Store

        try:
            with Store.open(self.root) as store:
                return store.boot_set(spec.image_id, str(spec.arch))
        except (StoreError, OSError) as error:
            self.warn(f"starting without kept blocks: {error}")
            return []

    def announce(self, spec: MachineSpec) -> Recording | None:
        """Prepare to record; None when that is not possible."""
        from sysqcache.store.journals import Note, journal_path, write_note
        from sysqcache.store.layout import open_layout

        run = RunInfo(
            new_run_id(spec.name), spec.name, str(spec.arch), str(spec.cache.mode), time.time()
        )
        try:
            journal = journal_path(open_layout(self.root), run.run_id)
            write_note(journal, Note(spec.image_id, run))
        except (StoreError, OSError) as error:
            self.warn(f"nothing will be recorded: {error}")
            return None
        return Recording(run, spec.image_id, journal)

    def keep(self, recording: Recording) -> IngestSummary:
        """Take the journal of an ended run into the store.

        When the store can't be used, the journal stays for a later command.
        """
        from sysqcache.store.facade import Store

        recording.leave()
        summary = IngestSummary()
        if not recording.journal.exists():
            return summary
        try:
            with Store.open(self.root) as store:
                result = store.ingest(
                    recording.journal, image_id=recording.image_id, run=recording.run
                )
        except (StoreError, OSError) as error:
            self.warn(f"the blocks of this run wait for a later one: {error}")
            return summary
        summary.blocks_new = result.blocks_new
        summary.blocks_known = result.blocks_known
        summary.damaged = result.damaged
        summary.seconds = result.seconds
        return summary

    def sweep(self) -> int:
        """Keep the journals of all ended runs; the number of runs."""
        return 0


def new_run_id(machine: str) -> str:
    """A name that no other run has, sorting by time."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return f"{stamp}-{machine}-{secrets.token_hex(4)}"
