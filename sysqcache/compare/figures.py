# SPDX-License-Identifier: GPL-2.0-or-later
"""From runs to medians, spreads and ratios: pure functions."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sysqcache.compare.ways import AnyWay, DomainWay, Way

READY: Final = "ready_s"
FIRST: Final = "first_task_s"
SECOND: Final = "second_task_s"


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One run; None is what is not measured of this kind of machine.

    :param round: from 0.
    :param ready_s: from the start of the QEMU process, of a domain from the call to libvirt, to
        the guest's answer to ``true``.
    :param first_task_s: the task's first run in this guest, ``second_task_s`` its second.
    :param command_s: as ``ready_s``, from the call that starts the machine, which also looks at
        the saved state and prepares disks.
    :param start_s: from the call to libvirt to its return.
    :param ready_hit_rate: the hit rate when the guest answered.
    :param host_cpu_s: CPU time of QEMU up to the end of the second run.
    :param peak_rss_bytes: most memory that QEMU had mapped and touched, pages that it
        shares with files and other processes included.
    :param hit_rate: share of the requested blocks that were adopted, 0..1.
    :param launch_s: from the start of the QEMU process to its first answer.
    :param probe_s: from there to the readiness probe, or to the agent's answer after a
        resume; the rest of ``ready_s`` is ``true`` itself.
    :param noise: what others did on the host meanwhile.
    """

    way: AnyWay
    round: int
    ready_s: float
    first_task_s: float
    second_task_s: float
    host_cpu_s: float
    hit_rate: float
    command_s: float | None = None
    peak_rss_bytes: int | None = None
    launch_s: float | None = None
    probe_s: float | None = None
    start_s: float | None = None
    ready_hit_rate: float | None = None
    noise: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """An entry of ``samples``."""
        value = {key: v for key, v in dataclasses.asdict(self).items() if v is not None}
        return {key: round(v, 4) if isinstance(v, float) else v for key, v in value.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """A measured value over several runs."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def to_json(self) -> dict[str, float]:
        """With four digits behind the point: a tenth of a millisecond."""
        return {key: round(value, 4) for key, value in dataclasses.asdict(self).items()}


def of_way(samples: Iterable[Sample], way: AnyWay) -> list[Sample]:
    """The runs of one way, by rounds."""
    return sorted((s for s in samples if s.way is way), key=lambda sample: sample.round)


def spread(samples: Sequence[Sample], name: str) -> Spread:
    """One value of some runs, at least one."""
    return Spread.of([getattr(sample, name) for sample in samples])


@dataclasses.dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio that is reported: one value of a way, over one value of a way."""

    name: str
    part: tuple[AnyWay, str]
    whole: tuple[AnyWay, str]


def _named() -> tuple[Ratio, ...]:
    found = [
        Ratio("warm/cold ready", (Way.WARM, READY), (Way.COLD, READY)),
        Ratio("warm/cold first task", (Way.WARM, FIRST), (Way.COLD, FIRST)),
    ]
    for way in (Way.FILE, Way.TEMPLATE, Way.TEMPLATE_WARM):
        found.append(Ratio(f"{way}/internal ready", (way, READY), (Way.INTERNAL, READY)))
    for cold, warm in (
        (Way.INTERNAL, Way.INTERNAL_WARM),
        (Way.FILE, Way.FILE_WARM),
        (Way.TEMPLATE, Way.TEMPLATE_WARM),
    ):
        found.append(Ratio(f"{warm}/{cold} first task", (warm, FIRST), (cold, FIRST)))
    for way in (Way.FILE_WARM, Way.TEMPLATE_WARM):
        found.append(Ratio(f"{way}/internal first task", (way, FIRST), (Way.INTERNAL, FIRST)))
    for way in Way:
        found.append(Ratio(f"{way} first/second task", (way, FIRST), (way, SECOND)))
    return tuple(found)


RATIOS: Final = _named()
"""All ratios of machines of vm.yaml, in the order of the report."""

_BOTH: Final = ((DomainWay.WARM, DomainWay.COLD), (DomainWay.SAVED_WARM, DomainWay.SAVED))
DOMAIN_RATIOS: Final = (
    *(
        Ratio(f"{warm}/{cold} {name}", (warm, value), (cold, value))
        for warm, cold in _BOTH
        for name, value in (("ready", READY), ("first task", FIRST))
    ),
    Ratio("managedsave+warm/cold ready", (DomainWay.SAVED_WARM, READY), (DomainWay.COLD, READY)),
)
"""Those of domains."""


def ratio(samples: Sequence[Sample], wanted: Ratio) -> Spread | None:
    """A ratio, taken within each round that has both; None when no round has.

    Within a round the runs are minutes apart at most, so what changes slowly on the host
    cancels out.
    """
    parts = {s.round: getattr(s, wanted.part[1]) for s in of_way(samples, wanted.part[0])}
    wholes = {s.round: getattr(s, wanted.whole[1]) for s in of_way(samples, wanted.whole[0])}
    values = [part / wholes[n] for n, part in parts.items() if wholes.get(n, 0.0) > 0]
    return Spread.of(values) if values else None


def ratios(samples: Sequence[Sample], wanted: Sequence[Ratio] = RATIOS) -> dict[str, Spread]:
    """All ratios that the runs allow."""
    found = {one.name: ratio(samples, one) for one in wanted}
    return {name: value for name, value in found.items() if value is not None}
