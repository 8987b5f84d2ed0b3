# SPDX-License-Identifier: GPL-2.0-or-later
"""From a domain's waiting journals to kept blocks, and from those to its next boot set.

Every fault here is a line for ``warn`` and a counter in the domain's state: the domain
itself starts and runs whatever happens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from sysqcache.base import paths
from sysqcache.base.counters import saw_damage
from sysqcache.base.errors import FormatError, StoreError, SysqcacheError
from sysqcache.base.types import CacheMode, RunInfo
from sysqcache.formats.block import left_out_words
from sysqcache.formats.modules import Module
from sysqcache.formats.runfiles import RunFiles
from sysqcache.libvirt import waiting
from sysqcache.libvirt.facts import DomainFacts
from sysqcache.libvirt.folder import DomainFolder, DomainState, store_root
from sysqcache.libvirt.publish import publish_packs
from sysqcache.machine.cache import Keeper, StartSet
from sysqcache.machine.helper.scan import scan_image
from sysqcache.machine.report import counters
from sysqcache.qmp.commands import TbCacheStats
from sysqcache.store.recording import IngestResult

Warn = Callable[[str], None]


class Intake:
    """The store of one domain, as its journals and its starts see it.

    :param xml: the domain's definition, for reading its image; "" when nobody knows it.
    """

    def __init__(self, folder: DomainFolder, state: DomainState, xml: str, warn: Warn) -> None:
        self.folder, self.state = folder, state
        self._xml = xml
        self._warn = warn
        self._root = store_root(state)

    def facts(self) -> DomainFacts | None:
        """What the domain consists of, if that is known."""
        with contextlib.suppress(SysqcacheError):
            return DomainFacts.of(self._xml) if self._xml else None
        return None

    def rotate(self) -> Path | None:
        """Take QEMU's journal away; what is none is counted as rejected."""
        try:
            return waiting.rotate(self.folder, self.state.uid)
        except FormatError as error:
            self._reject(error.message)
        except OSError as error:
            self._warn(f"the journal of {self.state.name} stays where it is: {error}")
        return None

    def _reject(self, why: str) -> None:
        self._warn(f"a journal of {self.state.name} was rejected: {why}")
        with contextlib.suppress(SysqcacheError, OSError):
            self.folder.update(rejected=self.folder.read().rejected + 1, warning=why)

    def copy_path(self, journal: Path) -> Path:
        """Where our copy of a waiting journal lies, among the store's own."""
        return self._root / paths.STORE_JOURNALS / journal.name

    def refresh(self, journal: Path) -> Path | None:
        """Copy what a waiting journal holds now; None when that can't be done."""
        from sysqcache.store.layout import open_layout

        try:
            open_layout(self._root)
            waiting.copy(journal, self.copy_path(journal))
        except FormatError as error:
            self._drop(journal)
            self._reject(error.message)
        except (OSError, StoreError) as error:
            self._warn(f"blocks of {self.state.name} are not kept yet: {error}")
        else:
            return self.copy_path(journal)
        return None

    def _drop(self, journal: Path) -> None:
        with contextlib.suppress(OSError):
            journal.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            RunFiles(self.copy_path(journal)).remove()

    def _remove_set_aside(self, journal: Path) -> None:
        """What is no journal, or an outdated one, is worth nothing, and may be huge."""
        for folder in (paths.STORE_DAMAGED, paths.STORE_OUTDATED):
            for aside in (self._root / folder).glob(f"{journal.name}.*"):
                aside.unlink(missing_ok=True)

    def keep(self, journal: Path, stats: TbCacheStats | None = None) -> IngestResult | None:
        """Take an ended run's journal into the store; None when it waits on.

        One that is none is set aside and counted.
        """
        copied = self.refresh(journal)
        if copied is None:
            return None
        found: list[str] = []
        keeper = Keeper(found.append, self._root)
        run = RunInfo(
            journal.stem, self.state.name, self.state.arch, str(CacheMode.ON), _started(journal)
        )
        summary = keeper.keep(
            StartSet(run, self.folder.image_id, files=RunFiles(copied)),
            counters=counters(stats) if stats is not None else None,
            damaged=stats is not None and saw_damage(stats.rejected),
        )
        for text in found:
            self._warn(f"{self.state.name}: {text}")
        if copied.exists():  # the store can't be used now
            copied.unlink()
            return None
        self._drop(journal)
        self._remove_set_aside(journal)
        if found and not summary.seconds:  # the store moved it aside
            self._reject(found[-1])
        with contextlib.suppress(SysqcacheError, OSError):
            self.folder.update(damaged=self.folder.read().damaged + summary.damaged)
        return summary

    def sweep(self) -> int:
        """Take in all journals of runs that have ended; how many were kept."""
        kept = [self.keep(journal) for journal in waiting.ended(self.folder)]
        return sum(summary is not None for summary in kept)

    def next_start(self) -> int:
        """Publish the packs that the next start maps; how many, those of before on a fault."""
        from sysqcache.store.facade import Store

        try:
            with Store.open(self._root) as store:
                packs = store.boot_set(self.folder.image_id, self.state.arch, self._contents)
                publish_packs(self.folder, packs, self.state.owner)
                if store.packs_left_out:
                    self._warn(f"{self.state.name}: {left_out_words(store.packs_left_out)}")
        except (StoreError, OSError) as error:
            self._warn(f"{self.state.name} will start with the packs it had: {error}")
            return sum(1 for _ in self.folder.packs.glob(f"*{paths.PACK_SUFFIX}"))
        return len(packs)

    def _contents(self) -> list[Module] | None:
        """What the domain's image holds, read from its files."""
        facts = self.facts()
        if facts is None:
            return None
        with scan_image(facts.spec()) as contents:
            return sorted(contents.found.modules())


def _started(journal: Path) -> float:
    with contextlib.suppress(OSError):
        return journal.stat().st_mtime
    return 0.0
