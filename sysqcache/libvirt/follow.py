# SPDX-License-Identifier: GPL-2.0-or-later
"""Follows one running domain until its QEMU ends, then keeps what was translated.

It talks to QEMU over the domain's own QMP channel and never to libvirt, so that it goes on
when libvirtd restarts. It looks into the guest some time after the start, whenever the
guest is paused or asked to shut down, and now and then; each look costs about a second of
the host's CPU and pauses the guest for some milliseconds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sysqcache.attribution.placer import AttributionSummary, Placer
from sysqcache.base import paths
from sysqcache.base.errors import MachineError, SysqcacheError
from sysqcache.base.sockets import connect_unix
from sysqcache.formats.runfiles import RunFiles
from sysqcache.libvirt import waiting
from sysqcache.libvirt.folder import DomainFolder, DomainState, LastRun
from sysqcache.libvirt.intake import Intake
from sysqcache.libvirt.publish import engines_dir
from sysqcache.machine.helper.scan import scan_image
from sysqcache.machine.instances import ForeignProcess
from sysqcache.machine.launch.process import ProcessId
from sysqcache.qmp import commands
from sysqcache.qmp.client import QmpClient
from sysqcache.qmp.commands import TbCacheStats
from sysqcache.spec.engines import FIRMWARE

Tell = Callable[[str], None]

_CONNECT: Final = 30.0
_EVENTS: Final = ("POWERDOWN", "SHUTDOWN", "STOP")
_ASK_EVERY: Final = 1.0
"""Seconds; a guest that ends by itself is down a few seconds after it began to, and what it
runs meanwhile is new: a look that is due then sees most of it.
"""
_WORTH_A_LOOK: Final = 1000
"""Blocks that were recorded since the last look."""
_FIRST: Final = 5.0
"""Seconds before the first look, unless the guest ends before."""
_QUIET: Final = 5.0
"""Seconds between looks into a busy guest, at least, and ten times as long as a look took."""
_CALM: Final = 200
"""Blocks between two questions, at most, when a guest has done what it was busy with. All
that it ran is still there then; later, code of ended programs may have left its memory.
"""
_PATIENCE: Final = 60.0
"""Seconds for finding places; nobody waits for it, and the host may be busy with guests."""
_STEP: Final = 0.5
_STATS_SECONDS: Final = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class Followed:
    """A running QEMU as :class:`Placer` sees it."""

    instance: DomainFolder
    process: ForeignProcess
    qmp: QmpClient


def peer(path: Path) -> ProcessId | None:
    """The process that listens on a socket, None when nobody does."""
    try:
        with connect_unix(path, _STATS_SECONDS) as connection:
            packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    except OSError:
        return None
    return ProcessId.of(struct.unpack("iII", packed)[0])


class Follower:
    """One run of one domain. :meth:`follow` returns when it is over, or at ``stop``."""

    def __init__(
        self, folder: DomainFolder, xml: str, tell: Tell, stop: threading.Event | None = None
    ) -> None:
        self.folder = folder
        self._xml = xml
        self._tell = tell
        self._stop = stop or threading.Event()
        self._stats: TbCacheStats | None = None
        self._summary = AttributionSummary()
        self._copied: Path | None = None

    def follow(self) -> bool:
        """Follow the domain; False when somebody else does, or when it does not run.

        Journals that wait are taken in either way. Never raises for the store.
        """
        with self.folder.held() as ours:
            if not ours:
                return False
            state = self.folder.read()
            intake = Intake(self.folder, state, self._xml, self._tell)
            intake.rotate()
            process = peer(self.folder.introspection)
            if process is None:
                _take_in(intake, self._tell)
                return False
            self._live(state, intake, process)
            if not self._stop.is_set():
                self._end(state, intake)
        return True

    def _live(self, state: DomainState, intake: Intake, process: ProcessId) -> None:
        """From QEMU's first answer to its end."""
        foreign = ForeignProcess(process, self.folder.directory / paths.INSTANCE_QEMU_LOG)
        try:
            with QmpClient.connect(self.folder.monitor, process=foreign, timeout=_CONNECT) as qmp:
                self._tell(f"following {state.name}")
                self._watch(Followed(self.folder, foreign, qmp), intake)
        except MachineError as error:
            self._tell(f"{state.name}: {error.message}")
        while foreign.poll() is None and not self._stop.is_set():
            foreign.wait(_STEP)

    def _watch(self, machine: Followed, intake: Intake) -> None:
        events = machine.qmp.events
        looker = Looker(machine, intake, self._summary, self._tell)
        self._copied = looker.copied
        seen = events.position
        while not events.closed and not self._stop.is_set():
            event = events.wait(_EVENTS, _ASK_EVERY if looker.stats else _STEP, seen)
            if event is not None:
                seen = event.number
            looker.ask(urgent=event is not None)
            self._stats = looker.stats
        looker.place()

    def _end(self, state: DomainState, intake: Intake) -> None:
        """Keep what was recorded, publish what the next start maps, write down how it was."""
        new = 0
        for journal in waiting.ended(self.folder):
            ours = self._copied is not None and journal.name == self._copied.name
            summary = intake.keep(journal, self._stats if ours else None)
            new += summary.blocks_new if summary is not None else 0
        packs = intake.next_start()
        stats = self._stats or TbCacheStats()
        last = LastRun(
            ended=time.time(),
            requested=stats.requested,
            adopted=stats.adopted,
            blocks_new=new,
            attributed=self._summary.attributed,
            recorded=self._summary.blocks,
            packs=packs,
        )
        with contextlib.suppress(SysqcacheError, OSError):
            self.folder.update(runs=self.folder.read().runs + 1, last=last)
        self._tell(f"{state.name} ended: {new:,} new blocks, {packs} packs for the next start")


class Looker:
    """Decides when to look into a guest, and does it."""

    def __init__(
        self, machine: Followed, intake: Intake, summary: AttributionSummary, warn: Tell
    ) -> None:
        self.stats: TbCacheStats | None = None
        self._machine, self._intake = machine, intake
        self._journal = waiting.being_written(machine.instance)
        self.copied = intake.copy_path(self._journal) if self._journal is not None else None
        self._placer = (
            Placer(
                RunFiles(self.copied),
                summary,
                warn,
                scan=scan_image,
                quiet=True,
                patience=_PATIENCE,
            )
            if self.copied is not None
            else None
        )
        self._recorded = 0
        self._asked = 0
        self._next = time.monotonic() + _FIRST
        self._tell = warn

    def ask(self, *, urgent: bool) -> None:
        """Ask for the counters, and look if there is enough to be seen.

        :param urgent: the guest is about to end, or pauses: look if there is anything.
        """
        with contextlib.suppress(SysqcacheError):
            self.stats = commands.query_tb_cache(self._machine.qmp, _STATS_SECONDS) or self.stats
        recorded = self.stats.recorded if self.stats is not None else 0
        calm, self._asked = recorded - self._asked < _CALM, recorded
        new = recorded - self._recorded
        due = calm or time.monotonic() >= self._next
        if (new and urgent) or (new >= _WORTH_A_LOOK and due):
            self._look(recorded)
            self._recorded = recorded

    def _look(self, recorded: int) -> None:
        """Whatever fails is tried again the next time."""
        if self._journal is None or self._placer is None:
            return
        began = time.monotonic()
        with contextlib.suppress(SysqcacheError):
            commands.tb_cache_checkpoint(self._machine.qmp)
        if self._intake.refresh(self._journal) is not None:
            self._placer.look(self._machine)
            self._tell(f"looked into {self._intake.state.name} after {recorded:,} blocks")
        self._next = time.monotonic() + max(_QUIET, 10 * (time.monotonic() - began))

    def place(self) -> None:
        """Write down whose the blocks are, beside our copy of the journal."""
        facts = self._intake.facts()
        if self._placer is None or self._journal is None or facts is None:
            return
        if self._intake.refresh(self._journal) is not None:
            firmware = engines_dir() / self._intake.state.engine / FIRMWARE
            self._placer.place(facts.spec(), firmware)


def sweep(folder: DomainFolder, xml: str, tell: Tell) -> None:
    """Take in what runs left that nobody followed, unless somebody does that already."""
    with folder.held() as ours:
        if ours:
            intake = Intake(folder, folder.read(), xml, tell)
            intake.rotate()
            _take_in(intake, tell)


def _take_in(intake: Intake, tell: Tell) -> None:
    kept = intake.sweep()
    if kept:
        packs = intake.next_start()
        tell(f"{intake.state.name}: kept the blocks of {kept} earlier runs, in {packs} packs")
