# SPDX-License-Identifier: GPL-2.0-or-later
"""The tiny guest under the engine, started without start and store.

The tests of the engine choose packs and journal themselves: the store would not let a
damaged pack through.
"""

from __future__ import annotations

import contextlib
import pickle
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machinehelp import NOKASLR, TINY, eventually

from sysqcache.base import paths
from sysqcache.base.counters import UNRECORDED
from sysqcache.base.types import CacheMode, RunInfo
from sysqcache.formats.journal import Journal, read_journal
from sysqcache.machine.guest.agent import KeptAgent
from sysqcache.machine.guest.ready import make_probe
from sysqcache.machine.guest.serialshell import SerialShell
from sysqcache.machine.launch import argv
from sysqcache.machine.launch.argv import Launch, TbCache
from sysqcache.machine.launch.process import QemuProcess
from sysqcache.qmp import commands
from sysqcache.qmp.client import QmpClient
from sysqcache.qmp.commands import TbCacheStats
from sysqcache.spec import resolve
from sysqcache.spec.engines import find_engine
from sysqcache.store.facade import Store

WORK_SAYS = "work: ok"


@dataclass(frozen=True)
class Start:
    """How to start the guest.

    :param packs: the boot set.
    :param sets: fields of vm.yaml.
    :param accel: options added to ``-accel tcg``.
    :param smp: what ``-smp`` says instead of the number of vCPUs, on a machine for several.
    """

    mode: CacheMode = CacheMode.ON
    packs: Sequence[Path] = ()
    journal: Path | None = None
    journal_max: int = 1 << 30
    sets: Sequence[str] = (NOKASLR,)
    accel: str = ""
    smp: str = ""


@dataclass
class Guest:
    """A running guest."""

    directory: Path
    process: QemuProcess
    qmp: QmpClient
    ready: Any = field(repr=False)

    def wait_ready(self, timeout: float = 120.0) -> None:
        """Wait for the readiness pattern.

        The time that a thread of QEMU's waited for a processor is no part of ``timeout``: among
        others a guest is slow, and that is not to be taken for one that stands still.
        """
        began = time.monotonic()
        while not self.ready.wait(0.1):
            self.process.check_alive()
            waited = self.process.identity.waited_seconds()
            assert time.monotonic() - began - waited < timeout, self.where(waited)

    def where(self, waited: float) -> str:
        """What a guest does that is not ready: where each vCPU is, and whether it is halted."""
        had = f"{self.process.cpu_seconds():.1f} s of processors, waited {waited:.1f} s for one"
        lines = self.monitor("info registers -a").splitlines()
        vcpus = [line for line in lines if line.startswith(("CPU#", "RIP="))]
        return "\n".join([had, *vcpus, self.log()])

    def work(self) -> None:
        """Run the task of the image; it checks its own results."""
        shell = SerialShell.connect(self.directory / paths.INSTANCE_SERIAL)
        with contextlib.closing(shell):
            result = shell.run("work", 120.0)
        assert result.exit == 0, result
        assert result.stdout.startswith(WORK_SAYS), result

    def stats(self) -> TbCacheStats:
        """The counters while the guest goes on."""
        stats = commands.query_tb_cache(self.qmp)
        assert stats is not None
        return stats

    def still_stats(self) -> TbCacheStats:
        """The counters of a guest that is stopped, so that they add up exactly."""
        commands.stop(self.qmp)
        return self.stats()

    def info(self) -> dict[str, Any]:
        """The whole answer of ``x-query-tb-cache``."""
        answer: dict[str, Any] = self.qmp.execute("x-query-tb-cache")
        return answer

    def audit(self) -> dict[str, Any]:
        """Blocks compared with memory; with several vCPUs all of them know their code."""
        found: dict[str, Any] = self.qmp.execute("x-tb-audit")
        assert found["stale"] == 0, found["log"]
        assert found["unknown"] == 0, found
        return found

    def monitor(self, command: str) -> str:
        """The answer of QEMU's monitor for people."""
        return str(self.qmp.execute("human-monitor-command", {"command-line": command}))

    def wait_for(self, name: str, count: int) -> None:
        """Wait until a counter has reached ``count``."""
        eventually(lambda: getattr(self.stats(), name) >= count)

    def log(self) -> str:
        """What QEMU said."""
        return self.process.log.read_text(errors="replace")


def command_line(start: Start, directory: Path) -> list[str]:
    """The command line for a guest in ``directory``, whose boot set is written there."""
    engine = find_engine("x86_64")
    spec = resolve.load(TINY, list(start.sets))
    boot_set = directory / paths.INSTANCE_BOOT_SET
    boot_set.write_text("".join(f"{pack}\n" for pack in start.packs))
    cache = TbCache(start.mode, boot_set, start.journal, start.journal_max)
    line = argv.build(
        Launch(spec, engine.binary, engine.firmware_dir, directory, spec.disks, cache)
    )
    if start.accel:
        line[line.index("-accel") + 1] += f",{start.accel}"
    if start.smp:
        line[line.index("-smp") + 1] = start.smp
        line[line.index("-accel") + 1] += ",thread=multi"
    return line


@contextlib.contextmanager
def guest(start: Start, directory: Path) -> Iterator[Guest]:
    """A guest that has just started; it ends with the block."""
    directory.mkdir(exist_ok=True)
    probe = make_probe(
        resolve.load(TINY).ready,
        serial_log=directory / paths.INSTANCE_SERIAL_LOG,
        agent=KeptAgent(directory / paths.INSTANCE_AGENT),
        target=("", 0),
    )
    with QemuProcess(command_line(start, directory), directory) as process:
        qmp = QmpClient.connect(directory / paths.INSTANCE_QMP, process=process, timeout=60.0)
        with qmp:
            running = Guest(directory, process, qmp, probe)
            yield running
            if process.poll() is None and len(qmp.execute("query-cpus-fast")) > 1:
                running.audit()


def run(start: Start, directory: Path) -> TbCacheStats:
    """Boot, run the task, give the counters; they must add up."""
    with guest(start, directory) as running:
        running.wait_ready()
        running.work()
        stats = running.still_stats()
        if start.journal and start.mode.records:
            commands.tb_cache_checkpoint(running.qmp)
    assert_adds_up(stats, records=start.journal is not None and start.mode.records)
    return stats


def assert_adds_up(stats: TbCacheStats, *, records: bool) -> None:
    """Each requested block has exactly one outcome."""
    assert stats.requested == stats.adopted + stats.translated
    assert sum(stats.misses.values()) + stats.verified == stats.translated
    kept_back = sum(stats.unrecorded.values())
    assert set(stats.unrecorded) == set(UNRECORDED)
    if records:
        assert stats.recorded + kept_back == stats.translated - stats.verified
    else:
        assert stats.recorded + kept_back == 0


def hit_rate(stats: TbCacheStats) -> float:
    """Share of the requested blocks that were found."""
    return (stats.adopted + stats.verified) / stats.requested


def make_pack(journal: Path, root: Path) -> Path:
    """A journal as the only pack of a new store."""
    run_info = RunInfo("run", "tiny", "x86_64", "on", time.time())
    with Store.open(root) as store:
        result = store.ingest(journal, image_id="tiny", run=run_info)
    assert result.damaged == 0
    [pack] = result.packs
    return pack


def record_pack(directory: Path, sets: Sequence[str] = (NOKASLR,)) -> tuple[Path, TbCacheStats]:
    """A cold run as a pack, with its counters."""
    directory.mkdir(exist_ok=True)
    journal = directory / "cold.journal"
    stats = run(Start(journal=journal, sets=sets), directory / "cold")
    return make_pack(journal, directory / "store"), stats


@dataclass(frozen=True)
class Recorded:
    """A cold run with its task, shared by tests: none of them may change its files."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, sets: Sequence[str]) -> None:
        """Run and keep everything in ``folder``."""
        journal = folder / "cold.journal"
        stats = run(Start(journal=journal, sets=sets), folder / "cold")
        # the store takes the journal away
        shutil.copy2(journal, folder / "kept.journal")
        make_pack(journal, folder / "store")
        (folder / "stats").write_bytes(pickle.dumps(stats))

    @property
    def pack(self) -> Path:
        """Its blocks, the only pack of a store."""
        [pack] = (self.folder / "store" / paths.STORE_PACKS).iterdir()
        return pack

    def journal(self) -> Journal:
        """What it recorded."""
        return read_journal(self.folder / "kept.journal")

    def stats(self) -> TbCacheStats:
        """Its counters."""
        stats = pickle.loads((self.folder / "stats").read_bytes())
        assert isinstance(stats, TbCacheStats)
        return stats
