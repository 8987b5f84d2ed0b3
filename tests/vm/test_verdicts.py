# SPDX-License-Identifier: GPL-2.0-or-later
"""Some of QEMU's own tests, cold, warm and verified; `python -m bench.verdicts` runs all."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.session import Session
from bench.verdicts import guests, suites, tcg
from bench.verdicts.verdict import Outcome, table
from sysqcache.setup.work import ignore

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("x86_engine", "tiny_image")]

PROGRAMS = (
    *("adox", "cmpxchg", "cross-modifying-code", "float_convs", "fma", "linux-test", "noexec"),
    *("segment-prefixes", "sha1", "sha512", "sigbus", "signals", "tb-link", "test-i386-bmi2"),
    *("test-flags", "test-1648", "test-2175", "test-vma", "threadcount", "vma-pthread"),
)


@pytest.fixture
def place(tmp_path: Path) -> suites.Place:
    tree = tcg.tree(ignore)
    if reason := tcg.missing("x86_64"):
        pytest.skip(reason)
    return suites.Place(tree, Session(tmp_path), time.monotonic(), guests.RUNS)


def check(outcome: Outcome, tests: int, blocks: int) -> None:
    """All have the same verdict in each run, most of what ran was adopted and verified."""
    assert outcome.tests >= tests, outcome.notes
    assert outcome.differences == [], table([outcome])
    assert outcome.mismatches == 0, table([outcome])
    assert min(outcome.adopted, outcome.verified) >= blocks, outcome


def test_bare_machines(place: suites.Place) -> None:
    outcome = suites.bare_machines("x86_64").run(place)
    check(outcome, 3, 5_000)
    assert outcome.passed == outcome.tests, table([outcome])


@pytest.mark.slow
def test_programs_in_a_guest(place: suites.Place) -> None:
    outcome = suites.programs("x86_64", only=PROGRAMS).run(place)
    check(outcome, len(PROGRAMS), 50_000)
    assert outcome.passed == outcome.tests, table([outcome])
