# SPDX-License-Identifier: GPL-2.0-or-later
"""Search for blocks that are adopted where they do not fit, with random programs in pairs.

    python -m bench.moving [KIND]... [--snippets N] [--seed N]

Each pair differs in one thing that is no part of a block's key (bench/moving_programs); the kinds
take turns until all have run N snippets together. The exit code is 1 when something is wrong; a
pair can be had again by its kind, seed and number of snippets, which are said then. Needs gcc.
Results go to bench/results.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench import table
from bench.moving_programs.judge import Verdict, judge
from bench.moving_programs.machine import ProgramHung, assemble
from bench.moving_programs.pairs import KINDS
from bench.output import keep
from bench.session import command_line, parse_parts
from sysqcache.base.errors import MachineDied

PROGRAM_SNIPPETS: Final = 2000
"""Of one program: a start of the machine is worth some hundred snippets."""

COLUMNS: Final = (
    "snippets",
    "blocks recorded",
    "verified again",
    "verified for the other",
    "mismatches",
    "other results",
    "size differences",
    "broken",
)


@dataclass
class Tally:
    """Everything of one kind.

    :param broken: programs that did not come to their end.
    :param wrong: seed and explanation of each pair with something wrong.
    """

    snippets: int = 0
    recorded: int = 0
    again: int = 0
    verified: int = 0
    mismatches: int = 0
    differences: int = 0
    limits: int = 0
    broken: int = 0
    wrong: list[tuple[int, str]] = field(default_factory=list)

    def add(self, seed: int, verdict: Verdict) -> None:
        """Count what a pair said."""
        self.snippets += verdict.snippets
        self.recorded += verdict.recorded
        self.again += verdict.again
        self.verified += verdict.verified
        self.mismatches += verdict.mismatches.count
        self.differences += len(verdict.differences)
        self.limits += verdict.mismatches.limits
        if not verdict.good:
            self.wrong.append((seed, verdict.explain()))

    def fail(self, seed: int, error: Exception) -> None:
        """Count a pair that did not come to its end."""
        self.broken += 1
        self.wrong.append((seed, "\n".join([str(error), getattr(error, "detail", "")])))

    def cells(self) -> tuple[int, ...]:
        """As COLUMNS."""
        return tuple(getattr(self, one.name) for one in dataclasses.fields(self)[: len(COLUMNS)])


def turns(kinds: Sequence[str], seed: int, snippets: int) -> Iterator[tuple[str, int, int]]:
    """Kind, seed and size of each pair; a round has every kind once, with the same seed.

    All rounds are whole, so that there may be some more snippets in the end.
    """
    size = min(PROGRAM_SNIPPETS, -(-snippets // len(kinds)))
    while snippets > 0:
        for kind in kinds:
            yield kind, seed, size
        snippets -= size * len(kinds)
        seed += 1


def one(kind: str, seed: int, count: int, kernel: Path, tally: Tally) -> None:
    """Make a pair, run it and count what it says."""
    pair = KINDS[kind](kind, seed, count)
    with tempfile.TemporaryDirectory(dir=kernel.parent) as directory:
        try:
            tally.add(seed, judge(pair, kernel, Path(directory) / "runs"))
        except (ProgramHung, MachineDied) as error:
            tally.fail(seed, error)


def matrix(tallies: Mapping[str, Tally]) -> str:
    """One Markdown table, a kind a row."""
    return table.matrix(
        ("", *COLUMNS),
        ((kind, *(f"{cell:,}" for cell in tally.cells())) for kind, tally in tallies.items()),
    )


def search(kinds: Sequence[str], seed: int, snippets: int, started: float) -> dict[str, Tally]:
    """Run all pairs, saying how far it is."""
    tallies = {kind: Tally() for kind in kinds}
    done = 0
    with tempfile.TemporaryDirectory(prefix="sysqcache-bench-") as directory:
        kernel = assemble(Path(directory))
        for kind, number, count in turns(kinds, seed, snippets):
            tally, before = tallies[kind], len(tallies[kind].wrong)
            one(kind, number, count, kernel, tally)
            done += count
            wrong = sum(len(tally.wrong) for tally in tallies.values())
            sys.stderr.write(
                f"{time.time() - started:7.0f} s  {done:,} of {snippets:,} snippets, "
                f"{kind!r} --seed {number} --snippets {count}; {wrong} pairs with something wrong\n"
            )
            for _, text in tally.wrong[before:]:
                sys.stderr.write(text + "\n")
    return tallies


def main(arguments: Sequence[str] | None = None) -> int:
    """Search, and print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--snippets", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    options = parse_parts(parser, list(KINDS), arguments)
    started = time.time()
    tallies = search(options.parts, options.seed, options.snippets, started)
    found = {kind: dataclasses.asdict(tally) for kind, tally in tallies.items()}
    keep("moving", started, {"seed": options.seed, "found": found})
    sys.stdout.write(matrix(tallies))
    return int(any(tally.wrong for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
