# SPDX-License-Identifier: GPL-2.0-or-later
"""Pairs of programs that differ in one thing alone, which no block's key holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final, TypeVar

from bench.moving_programs.encode import Field
from bench.moving_programs.image import Control, Place, Program, SecondPage, build
from bench.moving_programs.layout import pack
from bench.moving_programs.machine import AMD, INTEL, Settings
from bench.moving_programs.snippets import Maker, Snippet
from bench.moving_programs.values import Range, border, far_border

T = TypeVar("T")
Values = Sequence[Sequence[int]]
"""For each snippet the numbers of its fields."""

BASES: Final = {64: 0x1000000, 32: 0x600000, 16: 0x800000}
"""Where the code of each size lies."""

OTHER_BASES: Final = {64: -0x7F000000, 32: 0x2400000, 16: 0x800000}
"""The same for programs that lie elsewhere; the base of 16-bit segments is part of the key."""

OTHER_CONTROL: Final = Control(cr0=1 << 18, cr4=1 << 16 | 1 << 8 | 1 << 7 | 1 << 3 | 1 << 2)
"""AM; FSGSBASE, PCE, PGE, DE and TSD."""


@dataclass(frozen=True)
class Side:
    """A program and the machine that it runs in."""

    program: Program
    settings: Settings


@dataclass(frozen=True)
class Pair:
    """What is recorded of ``first`` is looked up for ``second``."""

    kind: str
    first: Side
    second: Side


def opaque(snippets: Sequence[Snippet], random: Random) -> tuple[Values, Values]:
    """All numbers of 32 bits are opaque, as addresses and as distances; the others stay."""

    def pick(field: Field) -> int:
        return Range.BOTH.pick(random) if field.size == 4 else border(random)

    return _changed(snippets, random, pick, lambda field: pick(field) if field.size == 4 else None)


def borders(snippets: Sequence[Snippet], random: Random) -> tuple[Values, Values]:
    """Numbers that are opaque change to such as may not be, and the other way round."""

    def second(field: Field) -> int | None:
        if field.size < 4 and random.random() < 0.9:
            return None
        return far_border(random) if field.jump else border(random)

    def first(field: Field) -> int:
        if random.random() < 0.6:
            return random.choice((Range.BOTH, Range.ADDRESS, Range.DISTANCE)).pick(random)
        return far_border(random) if field.jump else border(random)

    return _changed(snippets, random, first, second)


def _changed(
    snippets: Sequence[Snippet],
    random: Random,
    pick: Callable[[Field], int],
    change: Callable[[Field], int | None],
) -> tuple[Values, Values]:
    """Numbers for the first program; of the second some fields or all have others."""
    first, second = [], []
    for snippet in snippets:
        fields = snippet.part.fields
        values = [pick(field) for field in fields]
        if random.random() < 0.15:
            values = _repeated(fields, values)
        spared = 0.5 if random.random() < 0.4 else 0.0
        others = [
            value if random.random() < spared or (other := change(field)) is None else other
            for field, value in zip(fields, values, strict=True)
        ]
        first.append(values)
        second.append(others)
    return first, second


def _repeated(fields: Sequence[Field], values: Sequence[int]) -> list[int]:
    """The same number in all fields of 32 bits."""
    wide = [value for field, value in zip(fields, values, strict=True) if field.size == 4]
    return [
        wide[0] if field.size == 4 else value for field, value in zip(fields, values, strict=True)
    ]


def _any(snippets: Sequence[Snippet], random: Random) -> Values:
    """Numbers of every kind."""
    return [
        [far_border(random) if field.jump else border(random) for field in snippet.part.fields]
        for snippet in snippets
    ]


def places(
    snippets: Sequence[Snippet], random: Random, bases: dict[int, int] = BASES
) -> list[Place]:
    """All snippets in pages, by the size of their code."""
    found = []
    for bits, base in bases.items():
        numbers = [i for i, snippet in enumerate(snippets) if snippet.mode.bits == bits]
        found.append(Place(pack(snippets, numbers, random), base))
    return found


def moving(kind: str, seed: int, count: int) -> Pair:
    """Other numbers in the same code."""
    random = Random(f"{kind} {seed}")
    settings = _machine(seed)
    snippets = _snippets(random, count, settings)
    first, second = (opaque if kind == "opaque" else borders)(snippets, random)
    where = places(snippets, random)
    sides = [
        Side(build(snippets, values, where, data=seed, order=seed), settings)
        for values in (first, second)
    ]
    return Pair(kind, *sides)


def fixed(kind: str, cases: Sequence[tuple[Snippet, Sequence[int], Sequence[int]]]) -> Pair:
    """Chosen snippets with the numbers of the first and of the second program."""
    snippets = [snippet for snippet, _, _ in cases]
    where = places(snippets, Random(kind))
    sides = [
        Side(build(snippets, values, where, data=0, order=0), Settings())
        for values in ([first for _, first, _ in cases], [second for _, _, second in cases])
    ]
    return Pair(kind, *sides)


@dataclass(frozen=True)
class _Same:
    """What pairs begin with whose code is the same."""

    random: Random
    seed: int
    settings: Settings
    snippets: Sequence[Snippet]
    values: Values
    where: Sequence[Place]

    @classmethod
    def make(cls, kind: str, seed: int, count: int, *, focus: float = 0.1) -> _Same:
        """Any snippets, with numbers of every kind."""
        random = Random(f"{kind} {seed}")
        settings = _machine(seed)
        snippets = _snippets(random, count, settings, focus)
        values = _any(snippets, random)
        return cls(random, seed, settings, snippets, values, places(snippets, random))

    def program(self, where: Sequence[Place] | None = None, **others: Any) -> Program:
        """With their code, unless that lies elsewhere, and anything else that is asked for."""
        same: dict[str, Any] = {"data": self.seed, "order": self.seed}
        return build(self.snippets, self.values, where or self.where, **(same | others))


def vcpus(kind: str, seed: int, count: int) -> Pair:
    """The same code in machines with one vCPU and with two, or the other way round."""
    same = _Same.make(kind, seed, count, focus=0.6)
    first, second = (1, 2) if kind == "one, two" else (2, 1)
    made = same.program()
    return Pair(
        kind,
        Side(made, replace(same.settings, vcpus=first)),
        Side(made, replace(same.settings, vcpus=second)),
    )


def elsewhere(kind: str, seed: int, count: int) -> Pair:
    """The same pages of code at other addresses, run in another order with other data."""
    same = _Same.make(kind, seed, count)
    other = [
        Place(_shuffled(place.units, same.random), base)
        for place, base in zip(same.where, OTHER_BASES.values(), strict=True)
    ]
    sequence = _shuffled(range(count), same.random)
    moved = same.program(other, data=seed + 1, order=seed + 1, sequence=sequence)
    return Pair(kind, Side(same.program(), same.settings), Side(moved, same.settings))


def _shuffled(values: Sequence[T], random: Random) -> list[T]:
    return random.sample(values, len(values))


def second_page(kind: str, seed: int, count: int) -> Pair:
    """The second pages of code that crosses a border are not there, or other ones."""
    same = _Same.make(kind, seed, count)
    crossing = [_crossing(snippet, same.random) for snippet in same.snippets]
    where = places(crossing, same.random)
    second = SecondPage.NONE if kind == "no second page" else SecondPage.TRAPS
    other = [replace(place, second=second) for place in where]
    sides = [Side(same.program(one), same.settings) for one in (where, other)]
    return Pair(kind, *sides)


def _crossing(snippet: Snippet, random: Random) -> Snippet:
    """Half of all lie across a border."""
    size = len(snippet.part.code)
    if size < 2 or random.random() < 0.5:
        return snippet
    return replace(snippet, cross=random.randrange(1, size))


def engine_settings(kind: str, seed: int, count: int) -> Pair:
    """The same code with other ways to keep translated code in memory."""
    same = _Same.make(kind, seed, count)
    made = same.program()
    other = replace(same.settings, small_pages=True, tb_size_mib=8)
    return Pair(kind, Side(made, same.settings), Side(made, other))


def control_bits(kind: str, seed: int, count: int) -> Pair:
    """The same code with bits in control registers of which translators know nothing."""
    same = _Same.make(kind, seed, count)
    other = same.program(control=OTHER_CONTROL)
    return Pair(kind, Side(same.program(), same.settings), Side(other, same.settings))


def _machine(seed: int) -> Settings:
    return Settings(vendor=INTEL if seed % 2 else AMD)


def _snippets(random: Random, count: int, settings: Settings, focus: float = 0.1) -> list[Snippet]:
    maker = Maker(random, amd=settings.vendor == AMD, focus=focus)
    return [maker.snippet() for _ in range(count)]


KINDS: Final[dict[str, Callable[[str, int, int], Pair]]] = {
    "opaque": moving,
    "borders": moving,
    "one, two": vcpus,
    "two, one": vcpus,
    "elsewhere": elsewhere,
    "no second page": second_page,
    "other second page": second_page,
    "settings": engine_settings,
    "control bits": control_bits,
}
"""Name to what makes a pair of it, from the name, a seed and the number of snippets."""
