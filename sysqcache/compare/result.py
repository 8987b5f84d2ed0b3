# SPDX-License-Identifier: GPL-2.0-or-later
"""What a comparison found: the JSON that ``compare --json`` prints."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping
from typing import Any, Final

from sysqcache.compare.figures import (
    DOMAIN_RATIOS,
    FIRST,
    RATIOS,
    READY,
    SECOND,
    Ratio,
    Sample,
    Spread,
    of_way,
    ratios,
    spread,
)
from sysqcache.compare.ways import AnyWay, DomainWay, Way
from sysqcache.saved.record import Method


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """What is compared: machines of vm.yaml, or domains of libvirt.

    :param values: those of a way that are reported with their spread.
    :param groups: of ways, in the order of drawings.
    """

    values: tuple[str, ...]
    ratios: tuple[Ratio, ...]
    groups: tuple[str, ...]


MACHINES: Final = Subject(
    (READY, FIRST, SECOND, "host_cpu_s", "command_s"),
    RATIOS,
    ("boot", "internal", "file", "template"),
)
DOMAINS: Final = Subject(
    ("start_s", READY, FIRST, SECOND, "host_cpu_s"), DOMAIN_RATIOS, ("boot", "managedsave")
)


@dataclasses.dataclass(frozen=True, slots=True)
class Saving:
    """What saving the machine once took: seconds with the guest stopped, bytes on the disk."""

    suspend_s: float
    wall_s: float
    disk_bytes: int

    def to_json(self) -> dict[str, Any]:
        """An entry of ``suspends``."""
        return {name: round(value, 4) for name, value in dataclasses.asdict(self).items()}


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """All runs of one way, at least one; ``suspend_s`` None for a boot."""

    way: AnyWay
    runs: int
    spreads: Mapping[str, Spread]
    hit_rate: float
    disk_bytes: int
    peak_rss_bytes: int
    suspend_s: float | None
    ready_hit_rate: float | None

    def __getitem__(self, name: str) -> Spread:
        return self.spreads[name]

    def to_json(self) -> dict[str, Any]:
        """An entry of ``ways``."""
        value: dict[str, Any] = {
            "way": str(self.way),
            **{name: value.to_json() for name, value in self.spreads.items()},
            "hit_rate": round(self.hit_rate, 6),
            "runs": self.runs,
        }
        if self.ready_hit_rate is not None:
            return value | {"ready_hit_rate": round(self.ready_hit_rate, 6)}
        return value | {
            "disk_bytes": self.disk_bytes,
            "peak_rss_bytes": self.peak_rss_bytes,
            "suspend_s": None if self.suspend_s is None else round(self.suspend_s, 4),
        }


@dataclasses.dataclass(slots=True)
class Result:
    """One comparison, filled while it runs.

    :param asked: rounds that were asked for.
    :param host: facts about the host, and what ran on it, see :mod:`sysqcache.compare.host`.
    :param engine: key, build id and version.
    :param ways: those that were to be measured, in the order of the report.
    :param left_out: ways that this machine can't be started, with the reason.
    :param failed: ways that broke, with the error.
    :param store_bytes: of the blocks that one boot left, on the disk.
    :param notes: what the reader has to know.
    """

    machine: str
    task: str
    asked: int
    host: Mapping[str, Any]
    engine: Mapping[str, Any]
    ways: tuple[AnyWay, ...]
    left_out: dict[Way, str] = dataclasses.field(default_factory=dict)
    failed: dict[AnyWay, str] = dataclasses.field(default_factory=dict)
    savings: dict[Method, Saving] = dataclasses.field(default_factory=dict)
    samples: list[Sample] = dataclasses.field(default_factory=list)
    store_bytes: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)
    started: float = dataclasses.field(default_factory=time.time)
    took_s: float = 0.0
    interrupted: bool = False
    subject: Subject = MACHINES

    def note(self, text: str) -> bool:
        """Keep a note, once; whether it is new."""
        if text in self.notes:
            return False
        self.notes.append(text)
        return True

    def summaries(self) -> list[Summary]:
        """The ways that have runs, in the order of the report."""
        found = [self._summary(way, of_way(self.samples, way)) for way in self.ways]
        return [summary for summary in found if summary is not None]

    def _summary(self, way: AnyWay, runs: list[Sample]) -> Summary | None:
        if not runs:
            return None
        method = way.method if isinstance(way, Way) else None
        saving = self.savings.get(method) if method is not None else None
        ready_rates = [run.ready_hit_rate for run in runs if run.ready_hit_rate is not None]
        return Summary(
            way=way,
            runs=len(runs),
            spreads={name: spread(runs, name) for name in self.subject.values},
            disk_bytes=saving.disk_bytes if saving else 0,
            peak_rss_bytes=int(statistics.median(run.peak_rss_bytes or 0 for run in runs)),
            hit_rate=statistics.median(run.hit_rate for run in runs),
            suspend_s=saving.suspend_s if saving else None,
            ready_hit_rate=statistics.median(ready_rates) if ready_rates else None,
        )

    def start_delay(self) -> float | None:
        """Seconds by which the cache makes libvirt's start of a domain longer.

        None unless both boots of a domain were measured.
        """
        found = {one.way: one for one in self.summaries()}
        if self.subject is not DOMAINS or not {DomainWay.COLD, DomainWay.WARM} <= found.keys():
            return None
        cold, warm = (found[way]["start_s"] for way in (DomainWay.COLD, DomainWay.WARM))
        return warm.median - cold.median

    def ratios(self) -> dict[str, Spread]:
        """By name, taken within rounds."""
        return ratios(self.samples, self.subject.ratios)

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""
        found = self.ratios()
        value = {
            "machine": self.machine,
            "runs": self.asked,
            "host": dict(self.host),
            "task": self.task,
            "ways": [summary.to_json() for summary in self.summaries()],
            "ratios": {name: round(value.median, 4) for name, value in found.items()},
            "ratio_spreads": {name: value.to_json() for name, value in found.items()},
            "left_out": {str(way): reason for way, reason in self.left_out.items()},
            "failed": {str(way): reason for way, reason in self.failed.items()},
            "notes": list(self.notes),
            "engine": dict(self.engine),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "took_s": round(self.took_s, 1),
            "interrupted": self.interrupted,
            "samples": [sample.to_json() for sample in self.samples],
        }
        if self.subject is DOMAINS:
            delay = self.start_delay()
            return value | {"start_delay_s": None if delay is None else round(delay, 4)}
        suspends = {str(m): s.to_json() for m, s in self.savings.items()}
        return value | {"suspends": suspends, "store_bytes": self.store_bytes}
