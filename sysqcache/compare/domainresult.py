# SPDX-License-Identifier: GPL-2.0-or-later
"""What a comparison of a domain found: samples, ratios, the JSON that is printed."""

from __future__ import annotations

import dataclasses
import enum
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sysqcache.compare.figures import Spread


class DomainWay(enum.StrEnum):
    """A way to start; the cold ones have the same engine with the cache off."""

    COLD = "cold"
    WARM = "warm"
    SAVED = "managedsave"
    SAVED_WARM = "managedsave+warm"

    @property
    def cached(self) -> bool:
        """Whether kept blocks are used."""
        return self in (DomainWay.WARM, DomainWay.SAVED_WARM)

    @property
    def group(self) -> str:
        """The same for a way with and without the cache."""
        return "managedsave" if self.saved else "boot"

    @property
    def saved(self) -> bool:
        """Whether it goes on where it was saved."""
        return self in (DomainWay.SAVED, DomainWay.SAVED_WARM)


@dataclasses.dataclass(frozen=True, slots=True)
class DomainSample:
    """One start: seconds from the call to libvirt to its return, to the agent's first
    command, and of the task's first and second run; ``hit_rate`` at the end.
    """

    way: DomainWay
    round: int
    start_s: float
    ready_s: float
    first_task_s: float
    second_task_s: float
    host_cpu_s: float
    hit_rate: float
    ready_hit_rate: float


VALUES: Final = ("start_s", "ready_s", "first_task_s", "second_task_s", "host_cpu_s")
RATIOS: Final = (
    ("warm/cold ready", DomainWay.WARM, DomainWay.COLD, "ready_s"),
    ("warm/cold first task", DomainWay.WARM, DomainWay.COLD, "first_task_s"),
    ("managedsave+warm/managedsave ready", DomainWay.SAVED_WARM, DomainWay.SAVED, "ready_s"),
    (
        "managedsave+warm/managedsave first task",
        DomainWay.SAVED_WARM,
        DomainWay.SAVED,
        "first_task_s",
    ),
    ("managedsave+warm/cold ready", DomainWay.SAVED_WARM, DomainWay.COLD, "ready_s"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class DomainResult:
    """All starts of one domain.

    :param runs: rounds of all ``ways``.
    :param facts: about the host, see :mod:`sysqcache.compare.host`.
    :param engine: key, build id and version.
    """

    domain: str
    task: str
    runs: int
    samples: Sequence[DomainSample]
    facts: Mapping[str, Any]
    ways: Sequence[DomainWay] = tuple(DomainWay)
    engine: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    started: float = dataclasses.field(default_factory=time.time)
    took_s: float = 0.0

    def of(self, way: DomainWay) -> list[DomainSample]:
        """The starts of one way."""
        return [sample for sample in self.samples if sample.way is way]

    def spread(self, way: DomainWay, name: str) -> Spread:
        """One value of a way."""
        return Spread.of([getattr(sample, name) for sample in self.of(way)])

    def ratios(self) -> dict[str, Spread]:
        """By name, taken within rounds; those whose two ways were measured."""
        found = {}
        for name, part, whole, value in RATIOS:
            if part not in self.ways or whole not in self.ways:
                continue
            parts = zip(self.of(part), self.of(whole), strict=True)
            found[name] = Spread.of([getattr(a, value) / getattr(b, value) for a, b in parts])
        return found

    def start_delay(self) -> float | None:
        """Seconds by which the cache makes libvirt's start of a domain longer.

        None unless both boots were measured.
        """
        if not {DomainWay.COLD, DomainWay.WARM} <= set(self.ways):
            return None
        cold, warm = (self.spread(way, "start_s") for way in (DomainWay.COLD, DomainWay.WARM))
        return warm.median - cold.median

    def to_json(self) -> dict[str, Any]:
        """The object that ``compare --libvirt --json`` prints."""
        ratios, delay = self.ratios(), self.start_delay()
        return {
            "machine": self.domain,
            "runs": self.runs,
            "host": dict(self.facts),
            "task": self.task,
            "ways": [
                {
                    "way": str(way),
                    **{name: self.spread(way, name).to_json() for name in VALUES},
                    "hit_rate": round(self.spread(way, "hit_rate").median, 6),
                    "ready_hit_rate": round(self.spread(way, "ready_hit_rate").median, 6),
                }
                for way in self.ways
            ],
            "start_delay_s": None if delay is None else round(delay, 4),
            "ratios": {name: round(value.median, 4) for name, value in ratios.items()},
            "ratio_spreads": {name: value.to_json() for name, value in ratios.items()},
            "engine": dict(self.engine),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "took_s": round(self.took_s, 1),
            "samples": [dataclasses.asdict(sample) for sample in self.samples],
        }
