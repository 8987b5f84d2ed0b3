# SPDX-License-Identifier: GPL-2.0-or-later
"""Run tests on an engine with a sanitizer, and tell what that reports.

    python -m bench.sanitize [--part thread|address] [-k EXPRESSION] [--logs DIR]
    python -m bench.sanitize --part thread --read DIR

Engines: ``sysqcache engine build --sanitize thread`` and ``address``. Each part runs those tests
of machines with several vCPUs, damaged files and changing images that reach most of the
cache; ``-k`` chooses others. With ``--read`` the logs of an earlier run are read once more.
What is known has a reason in engine/tests/sanitizers; the exit code is 1 when another report
is left or a test fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.sanitizing import plugin, reports, suppressions
from bench.sanitizing.reports import Report
from bench.sanitizing.suppressions import Suppression
from bench.session import ROOT, command_line
from bench.table import matrix
from sysqcache.base.errors import EngineMissing
from sysqcache.spec import engines, series
from sysqcache.spec.series import Sanitizer

LISTS: Final = series.ENGINE_DIR / "tests" / "sanitizers"
TESTS: Final = ("test_vcpus.py", "test_cache_faults.py", "test_image_files.py")
TEST_TIMEOUT_S: Final = 1800
HEADER: Final = ("part", "tests", "reports", "different", "suppressed", "left")


@dataclass(frozen=True)
class Part:
    """What is run on an engine, and how its sanitizer is set.

    :param tests: what ``pytest -k`` gets.
    :param settings: by environment variable; where logs go comes on top.
    """

    tests: tuple[str, ...]
    settings: Mapping[str, str]


PARTS: Final[Mapping[Sanitizer, Part]] = {
    Sanitizer.THREAD: Part(
        tests=(
            "test_four_busy_threads_in_verify_mode and small",
            "test_code_beside_data_that_another_vcpu_writes",
            "test_nobody_keeps_code_that_changed_while_it_was_made and on",
            "test_every_thread_records_and_adopts",
            "test_bad_packs_added_while_running",
            "test_journal_max",
        ),
        settings={
            # QEMU locks more pages at once than the detector of dead locks has room for
            "TSAN_OPTIONS": "detect_deadlocks=0 history_size=7 exitcode=0",
            # GLib before 2.76 hands memory from thread to thread in a way that is not seen
            "G_SLICE": "always-malloc",
        },
    ),
    Sanitizer.ADDRESS: Part(
        tests=(
            "test_cache_faults and not icount and not second_object",
            "test_image_files",
            "test_four_busy_threads_in_verify_mode and small",
            "test_every_thread_records_and_adopts",
            "test_a_vcpu_that_differs_ends_the_cache",
        ),
        settings={
            # machines are ended with all they have; a bus error is a test's own
            "ASAN_OPTIONS": "detect_leaks=0 handle_sigbus=0 detect_stack_use_after_return=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
    ),
}


def environment(part: Part, logs: Path) -> dict[str, str]:
    """The sanitizers' settings."""
    settings = dict(part.settings)
    for name in settings.keys() & {"TSAN_OPTIONS", "ASAN_OPTIONS"}:
        settings[name] += f" log_path={logs}/report"
    return settings


def test(sanitize: Sanitizer, expression: str, logs: Path) -> bool:
    """Run the tests on the engine; whether all passed. Raises EngineMissing."""
    engine = engines.find_engine("x86_64", sanitize=sanitize)
    print(f"{sanitize}: engine {engine.key}{'' if engine.current else ', of older patches'}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", plugin.__name__]
    command += ["--timeout", str(TEST_TIMEOUT_S)]
    command += ["--durations", "0", "--durations-min", "1", "-k", expression]
    command += [str(ROOT / "tests" / "vm" / name) for name in TESTS]
    env = {**os.environ, engines.ENV_ENGINE: str(engine.dir), plugin.ENV_LOGS: str(logs)}
    env |= environment(PARTS[sanitize], logs)
    return subprocess.run(command, cwd=ROOT, env=env, check=False).returncode == 0


@dataclass(frozen=True)
class Found:
    """The reports of a part: with the entry that knows it, or None."""

    known: Sequence[tuple[Report, Suppression]]
    left: Sequence[Report]

    @classmethod
    def among(cls, found: Sequence[Report], entries: Sequence[Suppression]) -> Found:
        """Sorted by what the list knows."""
        pairs = [(report, suppressions.known(report, entries)) for report in found]
        return cls(
            [(report, entry) for report, entry in pairs if entry],
            [report for report, entry in pairs if not entry],
        )

    def row(self, sanitize: Sanitizer, tests: str) -> tuple[str, ...]:
        """As the columns of HEADER."""
        everything = [*(report for report, _ in self.known), *self.left]
        different = len({report.place for report in everything})
        counts = (len(everything), different, len(self.known), len(self.left))
        return (sanitize, tests, *map(str, counts))


def show(found: Found) -> None:
    """How often each entry was needed, and every other report that is left, once."""
    uses = Counter(f"{entry.kind}:{entry.pattern}" for _, entry in found.known)
    for name, count in uses.most_common():
        print(f"{count:6} {name}")
    own = [str(path) for path in series.own_files()]
    first: dict[tuple[str, ...], Report] = {}
    for report in found.left:
        first.setdefault(report.place, report)
    counts = Counter(report.place for report in found.left)
    for place, report in sorted(first.items(), key=lambda item: not item[1].touches(own)):
        whose = "in a file of ours" if report.touches(own) else "in QEMU's files"
        print(f"\n{counts[place]} times, {whose}: {'; '.join(place)}\n{report.text}")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--part", type=Sanitizer, choices=list(Sanitizer), help="default: both")
    parser.add_argument("-k", metavar="EXPRESSION", help="other tests, as pytest's -k")
    parser.add_argument("--logs", type=Path, default=Path("build/sanitize"), metavar="DIR")
    parser.add_argument("--read", type=Path, metavar="DIR", help="only read these logs")
    asked = parser.parse_args(given)
    if asked.read and not asked.part:
        parser.error("--read needs --part")
    return asked


def run(sanitize: Sanitizer, asked: argparse.Namespace) -> tuple[tuple[str, ...], bool]:
    """One part: its row, and whether all is well."""
    folder, tests = asked.read, "not run"
    passed = True
    if folder is None:
        folder = (asked.logs / sanitize).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        for log in folder.iterdir():
            log.unlink()
        expression = asked.k or " or ".join(f"({test})" for test in PARTS[sanitize].tests)
        passed = test(sanitize, expression, folder)
        tests = "passed" if passed else "failed"
    entries = suppressions.read(LISTS / f"{sanitize}.supp")
    found = Found.among(reports.read_all(folder), entries)
    show(found)
    return found.row(sanitize, tests), passed and not found.left


def main(given: Sequence[str] | None = None) -> int:
    """The exit code."""
    asked = arguments(given)
    try:
        done = [run(part, asked) for part in ([asked.part] if asked.part else Sanitizer)]
    except EngineMissing as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    print("\n" + matrix(HEADER, [row for row, _ in done]), end="")
    return 0 if all(good for _, good in done) else 1


if __name__ == "__main__":
    sys.exit(main())
