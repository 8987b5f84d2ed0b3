# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest code that rewrites itself: right results in every mode, and dead afterwards."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from enginehelp import Start, hit_rate, make_pack
from programhelp import misses_nothing_known, run, tiny_with

from bench.tinyguest import compiled
from sysqcache.base.types import CacheMode
from sysqcache.formats import journal

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("x86_engine", "tiny_image", "own_state")]

_PLACES = 3


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("rewrite", tmp_path_factory.mktemp("rewrite"))


@pytest.fixture
def sets(program: Path, tmp_path: Path) -> tuple[str, ...]:
    return tiny_with([program], tmp_path)


def test_same_results_cold_warm_and_verified(
    program: Path, sets: tuple[str, ...], tmp_path: Path
) -> None:
    expected = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    cold_journal = tmp_path / "cold.journal"
    [output], cold = run(Start(journal=cold_journal, sets=sets), tmp_path / "cold", "/bin/rewrite")
    assert output == expected
    assert cold.dead >= _PLACES

    dead = journal.read_journal(cold_journal)
    assert len(dead.dead) == cold.dead
    assert not set(dead.records["ram0"].tolist()) & set(dead.dead["ram_addr"].tolist())
    # without dead areas each of 30,000 variants would be a block
    assert cold.recorded < cold.requested - 20_000

    pack = make_pack(cold_journal, tmp_path / "store")
    for mode in (CacheMode.ON, CacheMode.VERIFY):
        start = Start(mode, [pack], sets=sets)
        [output], stats = run(start, tmp_path / mode.value, "/bin/rewrite")
        assert output == expected
        assert stats.mismatches == 0
        assert stats.dead >= _PLACES
        assert stats.misses["dead"] > 20_000
        rest = stats.requested - stats.misses["dead"] - stats.misses["count"]
        assert hit_rate(stats) * stats.requested > 0.85 * rest


@pytest.mark.slow
def test_the_rest_of_the_machine_is_as_warm(sets: tuple[str, ...], tmp_path: Path) -> None:
    misses_nothing_known("/bin/rewrite", sets, tmp_path)
