# SPDX-License-Identifier: GPL-2.0-or-later
"""Every run of a pair, and what it says of the engine.

| run | program | asked |
|---|---|---|
| recorded | first | |
| first verified | first | no mismatch |
| second verified | second | no mismatch |
| adopted | second | each snippet leaves what it leaves without the cache |
| off | second | |
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.moving_programs.image import Program
from bench.moving_programs.machine import Result, Run, make_pack, run
from bench.moving_programs.pairs import Pair, Side
from sysqcache.base.types import CacheMode
from sysqcache.formats.blocktable import Mask
from sysqcache.formats.journal import Journal, read_journal
from sysqcache.qmp.commands import TbCacheStats

Numbers = NDArray[np.uint64]

_CODE64: Final = 1 << 15
_RING: Final = 3
"""Of a block's flags: HF_CS64_MASK and HF_CPL_MASK of target/i386/cpu.h."""


@dataclass(frozen=True)
class Mismatches:
    """What a machine in verify mode found wrong.

    :param limits: blocks that end elsewhere because a buffer of the translator was full, which is
        not wrong; they are not in ``count``.
    :param log: lines of the engine's, for the first of each kind.
    """

    count: int = 0
    limits: int = 0
    log: tuple[str, ...] = ()

    @classmethod
    def of(cls, stats: TbCacheStats) -> Mismatches:
        """From the engine's counters."""
        return cls(stats.mismatches, stats.verify_limits, stats.mismatch_log)

    def __add__(self, other: Mismatches) -> Mismatches:
        return Mismatches(
            self.count + other.count, self.limits + other.limits, self.log + other.log
        )


@dataclass(frozen=True)
class Difference:
    """A snippet that left something else with the cache than without."""

    number: int
    code: str
    mode: str
    off: Result
    adopted: Result

    def __str__(self) -> str:
        parts = [
            f"{field.name} {getattr(self.off, field.name):x}"
            f" without, {getattr(self.adopted, field.name):x} with the cache"
            for field in fields(Result)
            if getattr(self.off, field.name) != getattr(self.adopted, field.name)
        ]
        return f"snippet {self.number}, {self.mode}: {self.code}: {'; '.join(parts)}"


@dataclass(frozen=True)
class Verdict:
    """All that the runs of a pair said; blocks are those of snippets, one for each place.

    :param recorded: blocks of the first program.
    :param again: of these, verified when it ran once more.
    :param verified: blocks of the second program that were found.
    :param movable: recorded blocks of 64-bit code in ring 0.
    :param moved: of these, verified where the second program has them.
    """

    kind: str
    snippets: int
    recorded: int
    again: int
    verified: int
    movable: int
    moved: int
    mismatches: Mismatches
    differences: tuple[Difference, ...]

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.mismatches.count and not self.differences

    def explain(self, most: int = 8) -> str:
        """The first mismatches and other results, a line each."""
        lines = [f"{self.mismatches.count} mismatches, {len(self.differences)} other results"]
        lines += self.mismatches.log[:most]
        lines += map(str, self.differences[:most])
        return "\n".join(lines)


def judge(pair: Pair, kernel: Path, directory: Path) -> Verdict:
    """Run everything in ``directory``, which must not exist, and remove it."""
    directory.mkdir()
    first, second = pair.first, pair.second
    recorded = _run(first, kernel, directory / "recorded", CacheMode.ON)
    assert recorded.journal
    blocks = _Recorded.read(recorded.journal, first.program)
    packs = [make_pack(recorded.journal, directory / "store")]
    again = _run(first, kernel, directory / "again", CacheMode.VERIFY, packs)
    checked = _run(second, kernel, directory / "checked", CacheMode.VERIFY, packs)
    adopted = _run(second, kernel, directory / "adopted", CacheMode.READ_ONLY, packs)
    off = _run(second, kernel, directory / "off", CacheMode.OFF)
    verified = _used(checked, second.program)
    verdict = Verdict(
        kind=pair.kind,
        snippets=second.program.count,
        recorded=len(blocks.places),
        again=len(_used(again, first.program)),
        verified=len(verified),
        movable=len(blocks.movable),
        moved=len(blocks.movable & verified),
        mismatches=_mismatches(again) + _mismatches(checked),
        differences=(*_differences(second.program, off, adopted),),
    )
    shutil.rmtree(directory)
    return verdict


def _run(
    side: Side, kernel: Path, directory: Path, mode: CacheMode, packs: Sequence[Path] = ()
) -> Run:
    return run(side.program, kernel, directory, mode, settings=side.settings, packs=packs)


@dataclass(frozen=True)
class _Recorded:
    """Places of recorded blocks, in ram_addr_t; of those of 64-bit code in ring 0 apart."""

    places: frozenset[int]
    movable: frozenset[int]

    @classmethod
    def read(cls, path: Path, program: Program) -> _Recorded:
        """From a journal, before the store takes it."""
        journal = read_journal(path)
        places = journal.records["ram0"]
        own = _own(journal, program)
        flags = journal.blocks.headers["flags"]
        movable = own & (flags & _CODE64 != 0) & (flags & _RING == 0)
        return cls(frozenset(places[own].tolist()), frozenset(places[movable].tolist()))


def _own(journal: Journal, program: Program, places: Numbers | None = None) -> Mask:
    """Which places, those of the recorded blocks unless others are given, hold snippets."""
    places = journal.records["ram0"] if places is None else places
    [ram] = journal.ram_map[journal.ram_map["guest_physical"] == 0]
    first, end = (int(ram["ram_addr"]) + address for address in program.code)
    inside: Mask = (places >= first) & (places < end)
    return inside


def _used(found: Run, program: Program) -> frozenset[int]:
    """Places of snippets' blocks that were found in packs."""
    assert found.journal
    journal = read_journal(found.journal)
    places = journal.adopted["ram0"]
    return frozenset(places[_own(journal, program, places)].tolist())


def _mismatches(found: Run) -> Mismatches:
    assert found.stats
    return Mismatches.of(found.stats)


def _differences(program: Program, off: Run, adopted: Run) -> Iterator[Difference]:
    for number, (one, other) in enumerate(zip(off.results, adopted.results, strict=True)):
        if one != other:
            snippet = program.snippets[number]
            code = snippet.part.filled(program.values[number])
            yield Difference(number, code.hex(" "), snippet.mode.name, one, other)
