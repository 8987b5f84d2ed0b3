# SPDX-License-Identifier: GPL-2.0-or-later
"""The metrics of `sysqcache metrics`: families of samples with names, helps and labels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sysqcache import __version__
from sysqcache.base.errors import SysqcacheError
from sysqcache.machine.report import blocks_json

if TYPE_CHECKING:
    from sysqcache.libvirt.folder import LastRun
    from sysqcache.qmp.commands import TbCacheStats

_WHO: Final = ("kind", "name")

COUNTED: Final = {
    "requested": "Blocks that the translator was asked for.",
    "adopted": "Blocks that were taken from packs.",
    "translated": "Blocks that were translated.",
    "recorded": "Blocks that were written into the journal.",
    "invalidated": "Blocks that the guest wrote over.",
    "flushes": "Times that the code buffer was emptied.",
    "verified": "Blocks that were translated and compared with kept ones.",
    "mismatches": "Verified blocks that differed from kept ones.",
}
"""Counters of a running machine, as in the ``blocks`` object, with their helps."""

REASONED: Final = {
    "misses": "Blocks that no pack had, by reason.",
    "rejected": "Kept blocks and packs that a check refused, by reason.",
    "unrecorded": "Translated blocks that can't be kept, by reason.",
}
"""The same by reason."""


def about() -> Metric:
    """What answers."""
    family = GaugeMetricFamily("sysqcache_info", "Version of sysqcache.", labels=["version"])
    family.add_metric([__version__], 1)
    return family


def store() -> Iterator[Metric]:
    """Sizes and counts of the user's store; ``up`` is 0 when it can't be read."""
    from sysqcache.base.paths import store_dir
    from sysqcache.store.facade import Store

    up = GaugeMetricFamily("sysqcache_store_up", "Whether the store can be read.")
    stats: Any = None
    if store_dir().exists():
        with contextlib.suppress(SysqcacheError), Store.open(store_dir()) as opened:
            stats = opened.stats()
    up.add_metric([], 0 if stats is None and store_dir().exists() else 1)
    yield up
    if stats is None:
        return
    packs = GaugeMetricFamily("sysqcache_store_packs", "Packs by state.", labels=["state"])
    for state, count in (
        ("live", stats.packs),
        ("superseded", stats.superseded),
        ("outdated", stats.outdated),
    ):
        packs.add_metric([state], count)
    yield packs
    size = GaugeMetricFamily("sysqcache_store_bytes", "Bytes on the disk.", labels=["part"])
    for part in ("pack", "meta", "journal"):
        size.add_metric([part], getattr(stats, f"{part}_bytes"))
    yield size
    yield GaugeMetricFamily("sysqcache_store_blocks", "Kept blocks.", value=stats.blocks)
    yield GaugeMetricFamily("sysqcache_store_journals", "Journals to keep.", value=stats.journals)
    yield CounterMetricFamily("sysqcache_store_runs", "Runs that were kept.", value=stats.runs)


class Machines:
    """Samples of all machines and domains; a family has those of every one."""

    def __init__(self) -> None:
        labels = [*_WHO, "state", "arch", "cache_mode"]
        self.state = GaugeMetricFamily("sysqcache_machine_state", "1.", labels=labels)
        self.state.documentation = "1 for each machine or domain, with its state."
        self.cpu = CounterMetricFamily("sysqcache_cpu_seconds", "QEMU's CPU time.", labels=_WHO)
        self.journal = GaugeMetricFamily("sysqcache_journal_bytes", "Recorded.", labels=_WHO)
        self.packs = GaugeMetricFamily("sysqcache_mapped_packs", "Mapped packs.", labels=_WHO)
        self.counted = {
            name: CounterMetricFamily(f"sysqcache_blocks_{name}", text, labels=_WHO)
            for name, text in COUNTED.items()
        }
        self.reasoned = {
            name: CounterMetricFamily(f"sysqcache_blocks_{name}", text, labels=(*_WHO, "reason"))
            for name, text in REASONED.items()
        }
        self.last = {
            name: GaugeMetricFamily(f"sysqcache_last_run_{name}", text, labels=_WHO)
            for name, text in (
                ("requested", "Blocks that the last ended run of a domain asked for."),
                ("adopted", "Blocks that the last ended run of a domain took from packs."),
                ("blocks_new", "Blocks that the last ended run of a domain brought."),
            )
        }

    def add(self, who: tuple[str, str], stats: TbCacheStats) -> None:
        """The counters of one that runs."""
        blocks = blocks_json(stats)
        for name, counter in self.counted.items():
            counter.add_metric(who, blocks[name])
        for name, counter in self.reasoned.items():
            for reason, count in blocks[name].items():
                counter.add_metric((*who, reason), count)
        self.journal.add_metric(who, stats.journal_bytes)
        self.packs.add_metric(who, sum(pack.status == "mapped" for pack in stats.packs))

    def add_last(self, who: tuple[str, str], last: LastRun) -> None:
        """What is known of the last run of a domain."""
        for name, family in self.last.items():
            family.add_metric(who, getattr(last, name))

    def families(self) -> Iterator[Metric]:
        """All that have samples."""
        every = (self.state, self.cpu, self.journal, self.packs)
        rest = (*self.counted.values(), *self.reasoned.values(), *self.last.values())
        yield from (family for family in (*every, *rest) if family.samples)


def machines() -> Iterator[Metric]:
    """States of machines and domains, and the counters of those that run."""
    found = Machines()
    _add_machines(found)
    _add_domains(found)
    yield from found.families()


def _add_machines(found: Machines) -> None:
    from sysqcache.base.types import MachineState
    from sysqcache.machine.instances import list_instances
    from sysqcache.machine.running import Machine

    for state in list_instances():
        who = ("machine", state.name)
        found.state.add_metric((*who, str(state.state), state.arch, state.cache_mode), 1)
        if state.state not in (MachineState.RUNNING, MachineState.STOPPING):
            continue
        with contextlib.suppress(SysqcacheError), Machine.attach(state.name, quick=True) as machine:
            found.cpu.add_metric(who, machine.process.cpu_seconds())
            if (stats := machine.stats()) is not None:
                found.add(who, stats)


def _add_domains(found: Machines) -> None:
    from sysqcache.libvirt.folder import list_folders
    from sysqcache.libvirt.status import ask_counters

    for folder in list_folders():
        with contextlib.suppress(SysqcacheError, OSError):
            state = folder.read()
            who = ("domain", state.name)
            stats = ask_counters(folder) if folder.introspection.exists() else None
            running = "stopped" if stats is None else "running"
            found.state.add_metric((*who, running, "", "on"), 1)
            if stats is not None:
                found.add(who, stats)
            if state.last.ended:
                found.add_last(who, state.last)
