# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run tells of the packs it used, and packs that it need not search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from enginehelp import Guest, Recorded, Start, guest
from machinehelp import NOKASLR
from numpy.typing import NDArray
from packhelp import damaged, positions, put

from sysqcache.base.types import CacheMode
from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import gather
from sysqcache.formats.journal import Journal, read_journal
from sysqcache.qmp import commands
from sysqcache.qmp.commands import TbCacheStats

pytestmark = pytest.mark.vm

_PRIVILEGE = 3
"""HF_CPL_MASK of target/i386/cpu.h: 0 in the kernel, 3 in programs."""


@pytest.fixture(scope="module")
def pack(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of a cold run, whose header does not tell the flags of its blocks."""
    return with_flags(recorded.pack, tmp_path_factory.mktemp("flags") / "any.pack", 0, 0)


def with_flags(pack: Path, copy: Path, flags_any: int, flags_all: int) -> Path:
    """A copy with other flags in its header."""

    def change(content: bytearray) -> None:
        put("flags_any", flags_any, seal=False)(content)
        put("flags_all", flags_all)(content)

    return damaged(pack, copy, change)


def ran(start: Start, directory: Path) -> tuple[Journal, TbCacheStats]:
    """Boot, run the task, give journal and counters."""
    assert start.journal is not None
    with guest(start, directory) as machine:
        stats = _finish(machine)
    return read_journal(start.journal), stats


def _finish(machine: Guest) -> TbCacheStats:
    machine.wait_ready()
    machine.work()
    stats = machine.still_stats()
    commands.tb_cache_checkpoint(machine.qmp)
    return stats


def by_level(pack: Path, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of blocks at each privilege level, among those at these places of a pack."""
    heads = gather(memoryview(pack.read_bytes()), places, bf.BLOCK)
    return np.bincount(heads["flags"] & _PRIVILEGE, minlength=4)


@pytest.mark.parametrize("mode", [CacheMode.ON, CacheMode.VERIFY])
def test_each_block_that_is_used_is_named_once(pack: Path, tmp_path: Path, mode: CacheMode) -> None:
    journal, stats = ran(Start(mode, [pack], tmp_path / "a.journal"), tmp_path / "a")
    assert journal.packs == {0: "any"}
    assert (journal.damaged, journal.skipped, journal.tail_bytes) == (0, 0, 0)

    used = journal.adopted
    assert len(np.unique(used["position"])) == len(used)
    known = positions(bytearray(pack.read_bytes())) // bf.ALIGN
    assert np.isin(used["position"], known).all()
    hits = stats.adopted + stats.verified
    assert 0.5 * hits < len(used) <= hits
    assert set(used["vcpu"].tolist()) == {0}

    # each lies where its page offset says
    at = used["position"].astype(np.int64) * bf.ALIGN
    heads = gather(memoryview(pack.read_bytes()), at, bf.BLOCK)
    assert (used["ram0"] % bf.PAGE_SIZE == heads["page_offset"]).all()


def test_packs_are_told_apart_also_when_added_later(pack: Path, tmp_path: Path) -> None:
    full, late = tmp_path / "full.pack", tmp_path / ("l" * 90 + ".pack")
    with_flags(pack, full, 1 << 31, 1 << 31)  # mapped, and never searched
    with_flags(pack, late, 0, 0)
    start = Start(packs=[full], journal=tmp_path / "a.journal")
    with guest(start, tmp_path / "late") as machine:
        machine.wait_for("recorded", 1000)
        before = machine.stats()
        assert before.adopted == 0
        assert before.misses["absent"] >= 1000
        machine.qmp.execute("x-tb-cache-add-pack", {"path": str(late)})
        _finish(machine)
    journal = read_journal(tmp_path / "a.journal")
    assert journal.packs == {0: "full", 1: "l" * 71}
    assert len(journal.adopted) > 10_000
    assert set(journal.adopted["pack"].tolist()) == {1}


def test_a_frozen_run_names_nothing(pack: Path, tmp_path: Path) -> None:
    with guest(Start(packs=[pack], journal=tmp_path / "a.journal"), tmp_path / "a") as machine:
        machine.qmp.execute("x-tb-cache-freeze", {"freeze": True})
        before = commands.tb_cache_checkpoint(machine.qmp)
        stats = _finish(machine)
        assert commands.tb_cache_checkpoint(machine.qmp) == before
    assert stats.adopted > 10_000


def test_a_full_journal_stays_whole(pack: Path, tmp_path: Path) -> None:
    journal = tmp_path / "small.journal"
    limit = 128 << 10  # a few thousand uses
    with guest(Start(packs=[pack], journal=journal, journal_max=limit), tmp_path / "a") as machine:
        stats = _finish(machine)
    assert stats.adopted > 10_000
    assert journal.stat().st_size <= limit
    kept = read_journal(journal)
    assert (kept.damaged, kept.skipped, kept.tail_bytes) == (0, 0, 0)
    assert 1000 < len(kept.adopted) < 10_000


@pytest.mark.slow
def test_two_vcpus_name_each_block_once(recorded_by_two: Recorded, tmp_path: Path) -> None:
    sets = (NOKASLR, "vcpus=2")
    start = Start(packs=[recorded_by_two.pack], journal=tmp_path / "a.journal", sets=sets)
    journal, stats = ran(start, tmp_path / "a")
    assert len(np.unique(journal.adopted["position"])) == len(journal.adopted)
    assert 0.5 * stats.adopted < len(journal.adopted) <= stats.adopted
    assert set(journal.adopted["vcpu"].tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("flags_any", "flags_all", "levels"),
    [
        (0xFFFFFFFF, 0, {0, 3}),
        (0xFFFFFFFF & ~_PRIVILEGE, 0, {0}),
        (0xFFFFFFFF, _PRIVILEGE, {3}),
    ],
    ids=["anything", "kernel", "programs"],
)
def test_only_packs_that_may_hold_a_block_are_searched(
    pack: Path, tmp_path: Path, flags_any: int, flags_all: int, levels: set[int]
) -> None:
    copy = with_flags(pack, tmp_path / "some.pack", flags_any, flags_all)
    journal, stats = ran(Start(packs=[copy], journal=tmp_path / "a.journal"), tmp_path / "a")
    assert sum(stats.rejected.values()) == 0
    kept = by_level(copy, positions(bytearray(copy.read_bytes())))
    used = by_level(copy, journal.adopted["position"].astype(np.int64) * bf.ALIGN)
    recorded = np.bincount(journal.blocks.headers["flags"] & _PRIVILEGE, minlength=4)
    for level in (0, 3):
        assert kept[level] > 1000
        found, missed = (used, recorded) if level in levels else (recorded, used)
        assert found[level] > 0.8 * kept[level]
        assert missed[level] < 0.2 * kept[level]
        assert used[level] == 0 or level in levels
