# SPDX-License-Identifier: GPL-2.0-or-later
"""What is run, in which order: pure values."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final


class Section(enum.StrEnum):
    """Parts that can be measured alone."""

    BOOT = "boot"
    THIRD = "third"
    RECORDING = "recording"
    OFF = "off"
    STORE = "store"
    HELP = "help"


class Kind(enum.StrEnum):
    """What one run is."""

    FILL = "fill"  # cold, its store is what warm runs start from
    COLD = "cold"  # records into a store of its own
    WARM = "warm"  # starts from a copy of the filled store
    SECOND = "second"  # as warm, its store is what the third boot starts from
    THIRD = "third"
    OFF = "off"  # our engine, cache off
    PLAIN = "plain"  # the engine without our patches
    OPEN = "open"  # maps the filled store and ends
    HELP = "help"


@dataclass(frozen=True)
class Step:
    """One run. ``config`` is the machine's name in the results, "" where there is none."""

    section: Section
    kind: Kind
    config: str = ""
    pair: int = 0

    @property
    def title(self) -> str:
        """For the progress."""
        pair = f" {self.pair + 1}" if self.pair >= 0 else ""
        return " ".join(word for word in (self.section, self.config, f"{self.kind}{pair}") if word)


SINGLE_RUNS: Final = 10
"""Runs of what is short: opening a store, the help."""

_PAIRS: Final[dict[Section, tuple[Kind, Kind]]] = {
    Section.BOOT: (Kind.COLD, Kind.WARM),
    Section.RECORDING: (Kind.OFF, Kind.COLD),
    Section.OFF: (Kind.PLAIN, Kind.OFF),
}


def pairs(section: Section, config: str, count: int) -> list[Step]:
    """Alternating runs; every other pair is turned, so that neither always comes first."""
    steps: list[Step] = []
    for pair in range(count):
        kinds = _PAIRS[section] if pair % 2 == 0 else _PAIRS[section][::-1]
        steps += [Step(section, kind, config, pair) for kind in kinds]
    return steps


def _of_config(section: Section, config: str, count: int) -> list[Step]:
    if section in _PAIRS:
        return pairs(section, config, count)
    if section is Section.THIRD:
        return [Step(section, Kind.SECOND, config, -1), Step(section, Kind.THIRD, config, -1)]
    return [Step(section, Kind.OPEN, config, run) for run in range(SINGLE_RUNS)]


def plan(
    sections: Iterable[Section], configs: Sequence[str], count: int, *, single: Sequence[str]
) -> list[Step]:
    """All runs.

    :param single: configs of the sections that compare engines, not machines
        (recording, off, store); the others are measured for all configs.
    """
    wanted = set(sections)
    needs_fill = {Section.BOOT, Section.THIRD, Section.STORE}
    steps: list[Step] = []
    for config in configs:
        chosen = [s for s in Section if s in wanted and s is not Section.HELP]
        if config not in single:
            chosen = [s for s in chosen if s is Section.BOOT]
        if needs_fill & set(chosen):
            steps.append(Step(Section.STORE, Kind.FILL, config, -1))
        for section in chosen:
            steps += _of_config(section, config, count)
    if Section.HELP in wanted:
        steps += [Step(Section.HELP, Kind.HELP, pair=run) for run in range(SINGLE_RUNS)]
    return steps
