# SPDX-License-Identifier: GPL-2.0-or-later
"""Run third parties' test suites cold, warm and verified, and compare their verdicts.

    python -m bench.verdicts [SUITE]... [--twice-cold]

Each suite runs without the cache, while a store is filled, with the filled store, and in verify
mode. A verdict is a test's exit status and a digest of what it says, as far as that is the same in
each run. Results go to bench/results, Ctrl-C keeps what was finished. The exit code is 1 when a
verdict differs, a block mismatches, a suite could not be run, or, of a run of all suites, fewer
than 400 tests had a verdict.

``system``: QEMU's tests/tcg for bare machines. ``user``: those for programs, in a tiny guest.
``stress-ng``, ``perl``, ``python``: what Debian's packages bring, in a Debian guest.

QEMU's qtests are not among them: they drive devices through a socket and most run no guest code.

``--twice-cold`` runs each suite twice without the cache instead: what differs then does so by
itself, and belongs into a table of :mod:`bench.verdicts.suites`, with the reason.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Final

from bench.output import keep
from bench.session import command_line, fresh_session
from bench.verdicts import guests, tcg
from bench.verdicts.guests import say
from bench.verdicts.suites import ENTRIES, Entry, Place, prepare
from bench.verdicts.verdict import Outcome, figures, reached, table
from sysqcache.setup.work import Progress

ASKED: Final = 400


def chosen(names: Sequence[str]) -> list[Entry]:
    """The suites whose names begin with one of ``names``; all without names."""
    return [entry for entry in ENTRIES if not names or any(entry.name.startswith(n) for n in names)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print the table."""
    parser = command_line(__doc__)
    names = ", ".join(entry.name for entry in ENTRIES)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"beginning of {names}")
    parser.add_argument("--twice-cold", action="store_true", help="find what differs by itself")
    options = parser.parse_args(arguments)
    entries = chosen(options.suites)
    if not entries:
        parser.error(f"the suites are {names}")
    started, begin = time.time(), time.monotonic()

    def listener(event: Progress) -> None:
        if event.state != "running":
            say(f"{event.step}: {event.state}", begin)

    outcomes: list[Outcome] = []
    skipped: list[str] = []
    with fresh_session() as session:
        runs = guests.TWICE_COLD if options.twice_cold else guests.RUNS
        place = Place(tcg.tree(listener), session, begin, runs)
        for entry in entries:
            if reason := prepare(entry, listener):
                say(f"{entry.name}: not run, {reason}", begin)
                skipped.append(entry.name)
                continue
            try:
                outcomes.append(entry.run(place))
            except KeyboardInterrupt:
                say(f"{entry.name}: interrupted", begin)
                skipped += [other.name for other in entries[entries.index(entry) :]]
                break
            say(outcomes[-1].summary(), begin)
    found = [outcome.to_json() for outcome in outcomes]
    results = {"suites": found, "skipped": skipped}
    keep("verdicts", started, results, figures(outcomes))
    sys.stdout.write(table(outcomes))
    asked = ASKED if len(entries) == len(ENTRIES) and not options.twice_cold else 0
    return 0 if reached(outcomes, asked) and not skipped else 1


if __name__ == "__main__":
    sys.exit(main())
