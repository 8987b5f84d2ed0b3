# SPDX-License-Identifier: GPL-2.0-or-later
"""From counters and times to the JSON of ``boot`` and ``resume``."""

from __future__ import annotations

import dataclasses
from typing import Any

from sysqcache.attribution.placer import AttributionSummary
from sysqcache.machine.guest.result import TaskResult
from sysqcache.qmp.commands import TbCacheStats
from sysqcache.store.recording import IngestResult


@dataclasses.dataclass(slots=True)
class Times:
    """Seconds. ``launch_s``: start of QEMU to QMP answering; ``ready_s``: to the readiness
    probe, None if it never came; ``wall_s``: to the end; ``host_cpu_s``: QEMU's CPU time.
    """

    launch_s: float = 0.0
    ready_s: float | None = None
    wall_s: float = 0.0
    host_cpu_s: float = 0.0
    tasks: list[TaskResult] = dataclasses.field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The ``times`` object."""
        return {
            "launch_s": round(self.launch_s, 4),
            "ready_s": None if self.ready_s is None else round(self.ready_s, 4),
            "wall_s": round(self.wall_s, 4),
            "host_cpu_s": round(self.host_cpu_s, 3),
            "tasks": [task.to_json() for task in self.tasks],
        }


@dataclasses.dataclass(slots=True)
class BootReport:
    """Everything that one start of a machine is reported with."""

    machine: str
    arch: str
    cache_mode: str
    start: str = "boot"
    times: Times = dataclasses.field(default_factory=Times)
    stats: TbCacheStats = dataclasses.field(default_factory=TbCacheStats)
    stats_at_ready: TbCacheStats = dataclasses.field(default_factory=TbCacheStats)
    ingest: IngestResult = dataclasses.field(default_factory=IngestResult)
    packs_left_out: int = 0
    attribution: AttributionSummary = dataclasses.field(default_factory=AttributionSummary)
    warnings: list[str] = dataclasses.field(default_factory=list)
    own_memory: int = 0
    """Host memory that QEMU had written to, bytes, after the tasks; no pages of mapped files."""
    interrupted: bool = False
    detached: bool = False

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        return {
            "machine": self.machine,
            "arch": self.arch,
            "cache_mode": self.cache_mode,
            "fingerprint": self.stats.fingerprint,
            "start": self.start,
            "times": self.times.to_json(),
            "own_memory_bytes": self.own_memory,
            "blocks": blocks_json(self.stats),
            "blocks_at_ready": blocks_json(self.stats_at_ready),
            "cache": cache_json(self.stats, self.ingest) | {"packs_left_out": self.packs_left_out},
            "attribution": self.attribution.to_json(),
            "warnings": list(self.warnings),
            "interrupted": self.interrupted,
            "detached": self.detached,
        }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def hit_rate(stats: TbCacheStats) -> float:
    """Share of the requested blocks that were found and usable, 0..1."""
    return _ratio(stats.adopted + stats.verified, stats.requested)


def adopt_cycles(stats: TbCacheStats) -> float:
    """Mean cycles of adopting a block, lookups that found nothing included."""
    return _ratio(stats.adopt_cycles + stats.miss_cycles, stats.adopted)


def translate_cycles(stats: TbCacheStats) -> float:
    """Mean cycles of translating a block."""
    return _ratio(stats.translate_cycles, stats.translated)


def translate_share(stats: TbCacheStats) -> float:
    """Share of all vCPU cycles that went into translating, adopting and looking up, 0..1.

    Cycles are counted while a vCPU that does so waits for a processor, too: on a busy host the
    share is an upper bound.
    """
    cycles = stats.adopt_cycles + stats.miss_cycles + stats.translate_cycles
    return min(1.0, _ratio(cycles, stats.vcpu_ns * 1e-9 * stats.tsc_hz))


def counters(stats: TbCacheStats) -> dict[str, int]:
    """What the store keeps of a run's counters, for `cache why`."""
    counts = {"requested": stats.requested, "adopted": stats.adopted + stats.verified}
    return counts | {f"missed: {reason}": count for reason, count in stats.misses.items() if count}


def blocks_json(stats: TbCacheStats) -> dict[str, Any]:
    """The ``blocks`` object: counters since the start of QEMU and means per block."""
    return {
        "requested": stats.requested,
        "adopted": stats.adopted,
        "translated": stats.translated,
        "hit_rate": round(hit_rate(stats), 6),
        "misses": dict(stats.misses),
        "rejected": dict(stats.rejected),
        "unrecorded": dict(stats.unrecorded),
        "adopt_cycles": round(adopt_cycles(stats), 1),
        "translate_cycles": round(translate_cycles(stats), 1),
        "translate_share": round(translate_share(stats), 6),
        "recorded": stats.recorded,
        "invalidated": stats.invalidated,
        "flushes": stats.flushes,
        "dead": stats.dead,
        "verified": stats.verified,
        "mismatches": stats.mismatches,
        "verify_prefix": stats.verify_prefix,
        "verify_limits": stats.verify_limits,
        "vcpu_s": round(stats.vcpu_ns * 1e-9, 4),
        "mismatch_log": list(stats.mismatch_log),
    }


def cache_json(stats: TbCacheStats, ingest: IngestResult) -> dict[str, Any]:
    """The ``cache`` object: mapped packs, the journal, what was kept."""
    mapped = [pack for pack in stats.packs if pack.status == "mapped"]
    return {
        "packs": len(mapped),
        "pack_bytes": sum(pack.bytes for pack in mapped),
        "pack_blocks": sum(pack.blocks for pack in mapped),
        "refused_packs": {p.path: p.status for p in stats.packs if p.status != "mapped"},
        "open_ms": round(sum(pack.open_us for pack in mapped) / 1000, 3),
        "journal_bytes": stats.journal_bytes,
        "ingest_s": round(ingest.seconds, 4),
        "blocks_new": ingest.blocks_new,
        "blocks_known": ingest.blocks_known,
        "blocks_dead": ingest.blocks_dead,
        "blocks_crowded": ingest.crowded,
        "blocks_outdated": ingest.outdated or 0,
        "blocks_damaged": ingest.damaged,
    }
