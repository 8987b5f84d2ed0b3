# SPDX-License-Identifier: GPL-2.0-or-later
"""From runs to figures, and whether they reach what is asked: pure functions."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from bench.plan import Kind, Section
from sysqcache.compare.figures import Spread


@dataclass(frozen=True)
class Run:
    """One finished run.

    :param values: what was measured, by name: seconds, counts, shares.
    :param noise: the load average before the run, CPU seconds that others used during it.
    """

    section: str
    kind: str
    config: str
    pair: int
    values: Mapping[str, float]
    noise: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of ``dataclasses.asdict``."""
        return cls(**{f.name: value[f.name] for f in dataclasses.fields(cls)})


@dataclass(frozen=True)
class Limit:
    """What a figure's median must reach."""

    value: float
    at_most: bool = True

    def met(self, value: float) -> bool:
        """Whether ``value`` is on the right side."""
        return value <= self.value if self.at_most else value >= self.value


@dataclass(frozen=True)
class Figure:
    """A measured figure: all its values, their median against the limit."""

    config: str
    name: str
    unit: str
    values: tuple[float, ...]
    limit: Limit | None = None

    @property
    def spread(self) -> Spread:
        """Of the values; there is at least one."""
        return Spread.of(self.values)

    @property
    def median(self) -> float:
        """Of the values."""
        return self.spread.median

    @property
    def passed(self) -> bool | None:
        """None without a limit."""
        return None if self.limit is None else self.limit.met(self.median)

    def to_json(self) -> dict[str, Any]:
        """With everything that a reader would compute."""
        limit = None if self.limit is None else dataclasses.asdict(self.limit)
        return {
            "config": self.config,
            "name": self.name,
            "unit": self.unit,
            **dataclasses.asdict(self.spread),
            "values": list(self.values),
            "limit": limit,
            "passed": self.passed,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`."""
        limit = None if value["limit"] is None else Limit(**value["limit"])
        return cls(value["config"], value["name"], value["unit"], tuple(value["values"]), limit)


def figures_of(
    found: Mapping[str, Sequence[float]],
    unit: Callable[[str], str],
    limit: Callable[[str], Limit | None],
    config: str = "",
) -> list[Figure]:
    """Every figure by its name, with all its values."""
    return [
        Figure(config, name, unit(name), tuple(values), limit(name))
        for name, values in found.items()
    ]


def at_least(value: float) -> Limit:
    """A lower limit."""
    return Limit(value, at_most=False)


# by whether the kernel's addresses are random
SECOND_HIT_RATE: Final = {True: at_least(0.92), False: at_least(0.97)}
SHARE_RATIO: Final = {True: Limit(0.40), False: Limit(0.30)}
THIRD_HIT_RATE: Final = at_least(0.94)
ADOPT_RATIO: Final = Limit(1 / 5)
SAVED_SHARE: Final = 0.6
RECORDING_RATIO: Final = Limit(1.03)
OFF_RATIO: Final = Limit(1.01)
OPEN_MS: Final = Limit(10.0)
INGEST_S: Final = Limit(5.0)
BYTES_PER_BLOCK: Final = Limit(500.0)
HELP_S: Final = Limit(0.3)

RATIO: Final = "ratio"
SHARE: Final = "%"


def select(runs: Iterable[Run], section: Section, kind: Kind, config: str) -> dict[int, Run]:
    """The runs of one kind by pair."""
    wanted = (section, kind, config)
    return {r.pair: r for r in runs if (r.section, r.kind, r.config) == wanted}


def values(runs: Mapping[int, Run], name: str) -> tuple[float, ...]:
    """One measured value of all runs, in the order of pairs."""
    return tuple(runs[pair].values[name] for pair in sorted(runs))


def ratios(part: Mapping[int, Run], whole: Mapping[int, Run], name: str) -> tuple[float, ...]:
    """The ratio of one value within each pair that is complete."""
    both = [pair for pair in sorted(part) if pair in whole and whole[pair].values[name] > 0]
    return tuple(part[pair].values[name] / whole[pair].values[name] for pair in both)


def _kept(figures: Iterable[Figure]) -> list[Figure]:
    """Those that were measured."""
    return [figure for figure in figures if figure.values]


def boot_figures(runs: Sequence[Run], config: str, *, kaslr: bool) -> list[Figure]:
    """Cold and warm boots."""
    cold = select(runs, Section.BOOT, Kind.COLD, config)
    warm = select(runs, Section.BOOT, Kind.WARM, config)
    return _kept(_boot_figures(config, cold, warm, kaslr=kaslr))


def _boot_figures(
    config: str, cold: Mapping[int, Run], warm: Mapping[int, Run], *, kaslr: bool
) -> Iterable[Figure]:
    shares = values(cold, "translate_share")
    bound = Limit(1 - SAVED_SHARE * statistics.median(shares)) if shares else None
    same_run = tuple(
        r.values["adopt_cycles"] / r.values["translate_cycles"]
        for _, r in sorted(warm.items())
        if r.values["translate_cycles"] > 0
    )
    hit_rate = values(warm, "hit_rate")
    share_ratio = ratios(warm, cold, "translate_share")
    yield Figure(config, "ready, cold", "s", values(cold, "ready_s"))
    yield Figure(config, "ready, warm", "s", values(warm, "ready_s"))
    yield Figure(config, "ready, warm/cold", RATIO, ratios(warm, cold, "ready_s"), bound)
    yield Figure(config, "host CPU, cold", "s", values(cold, "host_cpu_s"))
    yield Figure(config, "host CPU, warm", "s", values(warm, "host_cpu_s"))
    yield Figure(config, "host CPU, warm/cold", RATIO, ratios(warm, cold, "host_cpu_s"))
    yield Figure(config, "hit rate, second boot", SHARE, hit_rate, SECOND_HIT_RATE[kaslr])
    yield Figure(config, "cycles a translation, cold", "", values(cold, "translate_cycles"))
    yield Figure(config, "cycles a translation, warm", "", values(warm, "translate_cycles"))
    yield Figure(config, "cycles an adoption", "", values(warm, "adopt_cycles"))
    yield Figure(config, "adoption/translation, same run", RATIO, same_run, ADOPT_RATIO)
    yield Figure(config, "share of translation, cold", SHARE, shares)
    yield Figure(config, "share of translation, warm", SHARE, values(warm, "translate_share"))
    name = "share of translation, warm/cold"
    yield Figure(config, name, RATIO, share_ratio, SHARE_RATIO[kaslr])


def engine_figures(runs: Sequence[Run], config: str) -> list[Figure]:
    """What recording costs, and what the patches cost when they are off."""
    figures: list[Figure] = []
    for section, kind, base, what, limit in (
        (Section.RECORDING, Kind.COLD, Kind.OFF, "recording/cache off", RECORDING_RATIO),
        (Section.OFF, Kind.OFF, Kind.PLAIN, "cache off/plain QEMU", OFF_RATIO),
    ):
        part = select(runs, section, kind, config)
        whole = select(runs, section, base, config)
        for title, name in (("ready", "ready_s"), ("host CPU", "host_cpu_s")):
            found = ratios(part, whole, name)
            figures.append(Figure(config, f"{title}, {what}", RATIO, found, limit))
    return _kept(figures)


def store_figures(runs: Sequence[Run], config: str, *, kaslr: bool) -> list[Figure]:
    """The store after a cold boot, and a third boot."""
    fill = select(runs, Section.STORE, Kind.FILL, config)
    opened = select(runs, Section.STORE, Kind.OPEN, config)
    third = values(select(runs, Section.THIRD, Kind.THIRD, config), "hit_rate")
    third_limit = THIRD_HIT_RATE if kaslr else None
    return _kept(
        [
            Figure(config, "hit rate, third boot", SHARE, third, third_limit),
            Figure(config, "blocks of a cold boot", "", values(fill, "blocks")),
            Figure(config, "pack usable after", "ms", values(opened, "open_ms"), OPEN_MS),
            Figure(config, "journal to store", "s", values(fill, "ingest_s"), INGEST_S),
            Figure(
                config, "a block on disk", "bytes", values(fill, "bytes_per_block"), BYTES_PER_BLOCK
            ),
        ]
    )


def figures(runs: Sequence[Run], kaslr: Mapping[str, bool]) -> list[Figure]:
    """All figures that the runs allow; ``kaslr`` of each config, in the order to report."""
    parts: tuple[Callable[[str], list[Figure]], ...] = (
        lambda c: boot_figures(runs, c, kaslr=kaslr[c]),
        lambda c: engine_figures(runs, c),
        lambda c: store_figures(runs, c, kaslr=kaslr[c]),
    )
    found = [figure for config in kaslr for part in parts for figure in part(config)]
    help_s = values(select(runs, Section.HELP, Kind.HELP, ""), "wall_s")
    return [*found, *_kept([Figure("", "sysqcache --help", "s", help_s, HELP_S)])]
