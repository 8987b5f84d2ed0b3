# SPDX-License-Identifier: GPL-2.0-or-later
"""What the cache does in the tiny guest: counters add up, results stay what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from enginehelp import Recorded, Start, guest, hit_rate, make_pack, run
from machinehelp import NOKASLR

from sysqcache.base.types import CacheMode
from sysqcache.formats.journal import read_journal
from sysqcache.qmp import commands

pytestmark = pytest.mark.vm

TWO_VCPUS = (NOKASLR, "vcpus=2")
# the guest's blocks need about twice this much
SMALL_BUFFER = (NOKASLR, "accelerator.tb_size=20MiB")


@pytest.fixture
def pack(recorded: Recorded) -> Path:
    return recorded.pack


def test_a_cold_run_records_what_it_translates(recorded: Recorded) -> None:
    stats = recorded.stats()
    assert stats.adopted == 0
    assert stats.misses["no-pack"] > 50_000
    assert stats.misses["no-pack"] + stats.misses["count"] == stats.translated
    assert stats.recorded + stats.unrecorded["known"] == stats.misses["no-pack"]
    assert sum(stats.rejected.values()) == 0
    assert stats.packs == ()


def test_a_warm_run_adopts(pack: Path, tmp_path: Path) -> None:
    journal = tmp_path / "warm.journal"
    stats = run(Start(packs=[pack], journal=journal), tmp_path / "warm")
    assert hit_rate(stats) >= 0.85
    assert sum(stats.rejected.values()) == 0
    assert stats.misses["no-pack"] == 0
    assert [p.status for p in stats.packs] == ["mapped"]
    assert stats.adopt_cycles > 0
    kept = read_journal(journal)
    assert len(kept.blocks) == stats.recorded
    assert (kept.damaged, kept.skipped, kept.tail_bytes) == (0, 0, 0)

    # what was missing is known the next time
    second = make_pack(journal, tmp_path / "second")
    third = run(Start(CacheMode.READ_ONLY, packs=[pack, second]), tmp_path / "third")
    assert hit_rate(third) >= 0.85
    assert [p.status for p in third.packs] == ["mapped", "mapped"]


def test_verify_finds_nothing_different(pack: Path, tmp_path: Path) -> None:
    journal = tmp_path / "verify.journal"
    stats = run(Start(CacheMode.VERIFY, packs=[pack], journal=journal), tmp_path / "verify")
    assert stats.mismatches == 0, stats.mismatch_log
    assert stats.verified > 50_000
    assert stats.adopted == 0
    assert len(read_journal(journal).blocks) == stats.recorded


def test_read_only_writes_nothing(pack: Path, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in pack.parents[1].rglob("*")}
    journal = tmp_path / "never.journal"
    with guest(Start(CacheMode.READ_ONLY, [pack], journal), tmp_path / "read-only") as running:
        running.wait_ready()
        running.work()
        stats = running.still_stats()
        assert commands.tb_cache_checkpoint(running.qmp) == 0
    assert hit_rate(stats) >= 0.85
    assert stats.recorded == 0
    assert stats.requested == stats.adopted + stats.translated
    assert sum(stats.misses.values()) == stats.translated
    assert not journal.exists()
    assert {p: p.stat().st_mtime_ns for p in pack.parents[1].rglob("*")} == before


@pytest.mark.slow
def test_two_vcpus(recorded_by_two: Recorded, tmp_path: Path) -> None:
    pack = recorded_by_two.pack
    warm = run(Start(CacheMode.READ_ONLY, [pack], sets=TWO_VCPUS), tmp_path / "warm")
    assert hit_rate(warm) >= 0.85
    assert sum(warm.rejected.values()) == 0
    verified = run(Start(CacheMode.VERIFY, [pack], sets=TWO_VCPUS), tmp_path / "verify")
    assert verified.mismatches == 0, verified.mismatch_log
    assert verified.verified > 50_000


@pytest.mark.slow
def test_a_code_buffer_that_overflows(pack: Path, tmp_path: Path) -> None:
    warm = run(Start(CacheMode.READ_ONLY, [pack], sets=SMALL_BUFFER), tmp_path / "warm")
    assert warm.flushes >= 2
    assert hit_rate(warm) >= 0.85
    assert sum(warm.rejected.values()) == 0
    verified = run(Start(CacheMode.VERIFY, [pack], sets=SMALL_BUFFER), tmp_path / "verify")
    assert verified.flushes >= 2
    assert verified.mismatches == 0, verified.mismatch_log
    assert hit_rate(verified) >= 0.85


def test_a_pack_added_while_the_guest_runs(pack: Path, tmp_path: Path) -> None:
    with guest(Start(CacheMode.READ_ONLY), tmp_path / "late") as running:
        running.wait_for("requested", 1000)
        running.qmp.execute("x-tb-cache-add-pack", {"path": str(pack)})
        running.wait_ready()
        running.work()
        stats = running.still_stats()
    assert stats.misses["no-pack"] >= 1000
    assert stats.adopted > 10_000
    assert [p.status for p in stats.packs] == ["mapped"]


def test_a_frozen_journal_does_not_grow(tmp_path: Path) -> None:
    journal = tmp_path / "frozen.journal"
    with guest(Start(journal=journal), tmp_path / "frozen") as running:
        running.wait_for("recorded", 1000)
        running.qmp.execute("x-tb-cache-freeze", {"freeze": True})
        before = commands.tb_cache_checkpoint(running.qmp)
        running.wait_for("requested", running.stats().requested + 10_000)
        assert commands.tb_cache_checkpoint(running.qmp) == before
        running.qmp.execute("x-tb-cache-freeze", {"freeze": False})
        recorded = running.stats().recorded
        running.wait_for("recorded", recorded + 1000)
        running.wait_ready()
        running.work()
        stats = running.still_stats()
        commands.tb_cache_checkpoint(running.qmp)
    assert stats.unrecorded["frozen"] > 9_000
    assert len(read_journal(journal).blocks) == stats.recorded
