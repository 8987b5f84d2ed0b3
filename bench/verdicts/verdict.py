# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdicts of tests, and whether those of several runs are the same: pure functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bench.figures import Figure, Limit
from bench.table import matrix

MARK: Final = "verdict"
COLD: Final = "cold"
"""The run without the cache, which the others are compared with."""

Verdicts = Mapping[str, "Verdict"]


@dataclass(frozen=True)
class Verdict:
    """How one test ended.

    :param status: the exit status.
    :param digest: of what it said, as far as that is the same in each run.
    :param said: the last line of that, to be shown.
    :param seconds: how long it took by the guest's clock, to be shown.
    """

    status: int
    digest: str
    said: str = ""
    seconds: float = 0.0

    def same_as(self, other: Verdict) -> bool:
        """Whether both are the same; the rest is for readers."""
        return (self.status, self.digest) == (other.status, other.digest)

    def __str__(self) -> str:
        return f"status {self.status}, {self.digest[:8] or 'nothing'}, {self.said!r}"


def parse(text: str) -> dict[str, Verdict]:
    """The verdicts in what ``runner.sh`` printed; raises ValueError when a test has two."""
    found: dict[str, Verdict] = {}
    for line in text.splitlines():
        mark, *cells = line.split("\t")
        if mark != MARK or len(cells) < 4:
            continue
        name, status, digest, seconds, *said = cells
        if name in found:
            raise ValueError(f"two verdicts of {name}")
        found[name] = Verdict(int(status), digest, "\t".join(said), float(seconds))
    return found


@dataclass(frozen=True)
class Difference:
    """A test that ended otherwise in ``run`` than cold; None: it has no verdict there."""

    test: str
    run: str
    cold: Verdict | None
    other: Verdict | None

    def __str__(self) -> str:
        return f"{self.test}: {COLD} {self.cold}; {self.run} {self.other}"


def differences(runs: Mapping[str, Verdicts]) -> list[Difference]:
    """Where runs differ from the cold one, by run and then by test."""
    cold = runs[COLD]
    return [
        Difference(test, run, cold.get(test), verdicts.get(test))
        for run, verdicts in runs.items()
        for test in sorted(cold.keys() | verdicts.keys())
        if not _same(cold.get(test), verdicts.get(test))
    ]


def _same(one: Verdict | None, other: Verdict | None) -> bool:
    return one is not None and other is not None and one.same_as(other)


@dataclass
class Outcome:
    """A suite after all its runs.

    :param runs: verdicts by run, the cold one among them.
    :param verified: blocks that were translated again and compared, in the verify run.
    :param mismatches: those that were not the same.
    :param adopted: blocks adopted in the warm run.
    :param excluded: tests that were not run, with the reason of each.
    :param notes: what a reader of the table has to know.
    """

    suite: str
    runs: dict[str, dict[str, Verdict]] = field(default_factory=dict)
    verified: int = 0
    mismatches: int = 0
    adopted: int = 0
    seconds: float = 0.0
    excluded: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def tests(self) -> int:
        """How many have a verdict in the cold run."""
        return len(self.runs.get(COLD, {}))

    @property
    def passed(self) -> int:
        """How many ended with status 0 there."""
        return sum(verdict.status == 0 for verdict in self.runs.get(COLD, {}).values())

    @property
    def differences(self) -> list[Difference]:
        """See :func:`differences`; none before the cold run."""
        return differences(self.runs) if COLD in self.runs else []

    def summary(self) -> str:
        """One line."""
        return (
            f"{self.suite}: {self.tests} tests, {len(self.differences)} differences, "
            f"{self.verified:,} blocks verified, {self.mismatches} mismatches"
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, with what a reader would compute."""
        found = dataclasses.asdict(self)
        return found | {
            "tests": self.tests,
            "passed": self.passed,
            "differences": [str(one) for one in self.differences],
        }


HEADER: Final = (
    "suite", "tests", "pass cold", "runs compared", "differences", "blocks adopted",
    "blocks verified", "mismatches", "excluded", "took",
)  # fmt: skip


def _row(outcome: Outcome) -> tuple[str, ...]:
    compared = ", ".join(run for run in outcome.runs if run != COLD)
    numbers = (len(outcome.differences), outcome.adopted, outcome.verified, outcome.mismatches)
    return (
        outcome.suite, f"{outcome.tests:,}", f"{outcome.passed:,}", compared,
        *(f"{number:,}" for number in numbers), f"{len(outcome.excluded):,}",
        f"{outcome.seconds:.0f} s",
    )  # fmt: skip


def _total(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    def of(name: str) -> int:
        return sum(getattr(outcome, name) for outcome in outcomes)

    wrong = sum(len(outcome.differences) for outcome in outcomes)
    excluded = sum(len(outcome.excluded) for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    return (
        "**all**", f"{of('tests'):,}", f"{of('passed'):,}", "", f"{wrong:,}", f"{of('adopted'):,}",
        f"{of('verified'):,}", f"{of('mismatches'):,}", f"{excluded:,}", f"{seconds:.0f} s",
    )  # fmt: skip


def table(outcomes: Sequence[Outcome]) -> str:
    """One Markdown table, a suite a row, and what differed below it."""
    text = matrix(HEADER, [*map(_row, outcomes), _total(outcomes)])
    for outcome in outcomes:
        notes = (*outcome.notes, *outcome.differences)
        text += "".join(f"* {outcome.suite}: {one}\n" for one in notes)
    return text


def figures(outcomes: Sequence[Outcome]) -> list[Figure]:
    """The sums over all suites, and how many tests each has."""
    asked = {"differences": Limit(0.0), "mismatches": Limit(0.0)}
    sums = {
        "differences": sum(len(one.differences) for one in outcomes),
        "mismatches": sum(one.mismatches for one in outcomes),
        "blocks verified": sum(one.verified for one in outcomes),
        "blocks adopted": sum(one.adopted for one in outcomes),
        **{f"tests of {one.suite}": one.tests for one in outcomes},
    }
    return [Figure("", name, "", (float(value),), asked.get(name)) for name, value in sums.items()]


def reached(outcomes: Sequence[Outcome], tests: int) -> bool:
    """Whether there are at least ``tests`` verdicts, no difference and no mismatch."""
    enough = sum(outcome.tests for outcome in outcomes) >= tests
    return enough and not any(one.differences or one.mismatches for one in outcomes)
