# SPDX-License-Identifier: GPL-2.0-or-later
"""Packs and journals that are damaged, foreign, full: the machine runs, a counter tells."""

from __future__ import annotations

import os
from pathlib import Path

import packhelp
import pytest
from enginehelp import (
    Guest,
    Recorded,
    Start,
    assert_adds_up,
    command_line,
    guest,
    hit_rate,
    make_pack,
    run,
)
from machinehelp import NOKASLR
from packhelp import Damage, cut, damaged, put, small_disk

from bench.packs import crowded, split
from sysqcache.base.counters import REJECTS
from sysqcache.base.errors import LaunchError, QmpError
from sysqcache.base.types import CacheMode
from sysqcache.formats.block import MAX_PACKS
from sysqcache.formats.journal import read_journal
from sysqcache.machine.launch.process import QemuProcess
from sysqcache.qmp.commands import TbCacheStats

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("x86_engine", "tiny_image")]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
READ_ONLY = CacheMode.READ_ONLY


@pytest.fixture
def pack(recorded: Recorded) -> Path:
    """A pack of a cold run."""
    return recorded.pack


REFUSED: dict[str, tuple[str, Damage]] = {
    "empty": ("truncated", cut(0)),
    "half-a-header": ("truncated", cut(2000)),
    "header-only": ("truncated", cut(4096)),
    "one-byte-short": ("truncated", cut(-1)),
    "magic": ("magic", put("magic", b"NOTAPACK")),
    "newer": ("version", put("version", 3)),
    "older": ("version", put("version", 1)),
    "flipped-header": ("header-checksum", put("text", b"X", seal=False)),
    "other-fingerprint": ("fingerprint", put("fingerprint", bytes(32))),
    "other-page-bits": ("page-bits", put("page_bits", 14)),
    "index-outside": ("bounds", put("index_offset", 1 << 40)),
    "huge-blocks": ("bounds", put("blocks_size", (1 << 64) - 1)),
    "huge-index": ("bounds", put("index_entries", 1 << 60)),
    "no-slots": ("bounds", put("slot_count", 0)),
    "no-empty-entry": ("bounds", put("slot_count", (1 << 32) - 1)),
}


def refused_packs(pack: Path, folder: Path) -> dict[Path, str]:
    """Packs that must be refused, with the reason."""
    found: dict[Path, str] = {}
    for name, (reason, damage) in REFUSED.items():
        found[damaged(pack, folder / f"{name}.pack", damage)] = reason
    for mode in (0o620, 0o602):
        copy = damaged(pack, folder / f"mode-{mode:o}.pack", lambda _: None)
        copy.chmod(mode)
        found[copy] = "writable"
    os.mkfifo(folder / "fifo.pack", 0o600)
    (folder / "directory.pack").mkdir()
    (folder / "link.pack").symlink_to(pack)
    for name in ("fifo", "directory", "link", "missing"):
        found[folder / f"{name}.pack"] = "unreadable"
    return found


def test_packs_that_are_refused_beside_a_good_one(pack: Path, tmp_path: Path) -> None:
    refused = refused_packs(pack, tmp_path)
    stats = run(Start(READ_ONLY, [*refused, pack]), tmp_path / "guest")
    status = {Path(p.path): p.status for p in stats.packs}
    assert status == {pack: "mapped", **refused}
    reasons = list(refused.values())
    assert dict(stats.rejected) == {name: reasons.count(name) for name in REJECTS}
    assert hit_rate(stats) >= 0.85


@as_root
def test_packs_of_others(pack: Path, tmp_path: Path) -> None:
    other = damaged(pack, tmp_path / "other.pack", lambda _: None)
    os.chown(other, 65534, 65534)
    with guest(Start(READ_ONLY, [other]), tmp_path / "guest") as running:
        running.wait_for("requested", 1)
        stats = running.still_stats()
    assert [p.status for p in stats.packs] == ["owner"]
    assert stats.rejected["owner"] == 1
    assert stats.misses["no-pack"] > 0


def boot_with(pack: Path, tmp_path: Path, damage: Damage, *others: Path) -> TbCacheStats:
    """Boot and work with a pack whose header is good."""
    bad = damaged(pack, tmp_path / "bad.pack", damage)
    stats = run(Start(READ_ONLY, [bad, *others]), tmp_path / "guest")
    assert {p.status for p in stats.packs} == {"mapped"}
    return stats


def test_flipped_bits_in_every_block(pack: Path, tmp_path: Path) -> None:
    stats = boot_with(pack, tmp_path, packhelp.flip_code)
    assert stats.adopted == 0
    assert stats.rejected["checksum"] > 50_000
    assert 50_000 < stats.misses["rejected"] <= stats.rejected["checksum"]


def test_flipped_bits_beside_a_good_pack(pack: Path, tmp_path: Path) -> None:
    stats = boot_with(pack, tmp_path, packhelp.flip_code, pack)
    # behind a good block, the good pack is looked into first
    assert stats.rejected["checksum"] > 500
    assert hit_rate(stats) >= 0.85


@pytest.mark.parametrize("damage", [packhelp.flip_sizes, packhelp.positions_outside])
def test_sizes_and_positions_outside(pack: Path, tmp_path: Path, damage: Damage) -> None:
    stats = boot_with(pack, tmp_path, damage)
    assert stats.adopted == 0
    assert stats.rejected["bounds"] > 50_000
    assert stats.misses["rejected"] > 50_000


def test_a_crowded_pack(pack: Path, tmp_path: Path) -> None:
    """A guest may fill a store with what others look for: few of its blocks are compared."""
    full = crowded(pack, tmp_path / "crowded")
    alone = run(Start(READ_ONLY, [full]), tmp_path / "alone")
    assert alone.adopted == 0
    assert alone.misses["crowded"] > 32
    # a block of another pack is found behind it
    stats = run(Start(READ_ONLY, [full, pack]), tmp_path / "both")
    assert hit_rate(stats) >= 0.85


def test_many_packs_hold_what_one_does(recorded: Recorded, tmp_path: Path) -> None:
    """Every block is found wherever it lies, and none that does not fit."""
    packs = split(recorded.pack, tmp_path / "packs", 60)
    stats = run(Start(CacheMode.VERIFY, packs), tmp_path / "guest")
    assert [p.status for p in stats.packs] == ["mapped"] * 60
    assert hit_rate(stats) >= 0.85
    assert stats.mismatches == 0
    # beyond the limit: told, counted, and the machine runs
    many = [damaged(packs[0], tmp_path / f"{n}.pack", lambda _: None) for n in range(MAX_PACKS)]
    stats = run(Start(READ_ONLY, [*many, *packs[1:3]]), tmp_path / "full")
    assert [p.status for p in stats.packs][-3:] == ["mapped", "limit", "limit"]
    assert {k: n for k, n in stats.rejected.items() if n} == {"limit": 2}
    assert stats.adopted > 0


def test_blocks_that_claim_the_next_page(pack: Path, tmp_path: Path) -> None:
    """What lies on the second page is nobody's business before the checksum is right."""
    stats = boot_with(pack, tmp_path, packhelp.longer_guest_code)
    assert stats.rejected["checksum"] > 100
    assert stats.misses["page2"] == 0
    assert hit_rate(stats) >= 0.7


def test_the_first_mismatches_of_each_kind_are_told(pack: Path, tmp_path: Path) -> None:
    bad = damaged(pack, tmp_path / "bad.pack", packhelp.wrong_in_two_ways)
    stats = run(Start(CacheMode.VERIFY, [bad]), tmp_path / "guest")
    assert stats.mismatches > 10_000
    assert stats.mismatches == stats.verified
    kinds = ["code differs" in line for line in stats.mismatch_log]
    assert (kinds.count(True), kinds.count(False)) == (4, 4), stats.mismatch_log


def test_noise_in_the_index(pack: Path, tmp_path: Path) -> None:
    stats = boot_with(pack, tmp_path, packhelp.noise_in_index)
    assert stats.adopted > 10_000


def test_an_index_that_points_to_other_blocks(pack: Path, tmp_path: Path) -> None:
    """The few entries that lead to the right block by chance lead to those behind it as well."""
    bad = damaged(pack, tmp_path / "bad.pack", packhelp.shuffled_index)
    stats = run(Start(CacheMode.VERIFY, [bad]), tmp_path / "guest")
    assert stats.mismatches == 0
    assert stats.verified > 0
    assert stats.misses["absent"] + stats.misses["bytes"] > 5_000, stats.misses


def test_an_index_without_an_end(pack: Path, tmp_path: Path) -> None:
    """A lookup ends with the index; the guest is slow, so it is not awaited."""
    bad = damaged(pack, tmp_path / "bad.pack", packhelp.full_index)
    with guest(Start(READ_ONLY, [bad]), tmp_path / "guest") as running:
        running.wait_for("requested", 2_000)
        stats = running.still_stats()
    assert_adds_up(stats, records=False)


@pytest.mark.parametrize("left", [0, 4096, 1 << 20])
def test_a_pack_that_shrinks_while_it_is_mapped(pack: Path, tmp_path: Path, left: int) -> None:
    shrinking = damaged(pack, tmp_path / "shrinking.pack", lambda _: None)
    with guest(Start(READ_ONLY, [shrinking]), tmp_path / "guest") as running:
        running.wait_for("adopted", 5_000)
        os.truncate(shrinking, left)
        running.wait_ready()
        running.work()
        stats = running.still_stats()
    assert_adds_up(stats, records=False)
    assert [p.status for p in stats.packs] == ["truncated"]
    assert stats.misses["absent"] + stats.misses["rejected"] > 1000


@as_root
def test_a_journal_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "3m") as disk:
        journal = disk / "cold.journal"
        stats = run(Start(journal=journal), tmp_path / "guest")
        assert stats.unrecorded["write-error"] > 10_000
        # read as a copy: a mapped file would keep the disk busy
        copy = tmp_path / "copy.journal"
        copy.write_bytes(journal.read_bytes())
    copy.chmod(0o600)
    kept = read_journal(copy)
    assert 1000 < len(kept.blocks) <= stats.recorded
    assert kept.damaged == 0
    pack = make_pack(copy, tmp_path / "store")
    assert run(Start(READ_ONLY, [pack]), tmp_path / "warm").adopted > 1000


def test_a_journal_that_can_not_be_created(tmp_path: Path) -> None:
    existing = tmp_path / "existing.journal"
    existing.write_bytes(b"mine")
    with guest(Start(journal=existing), tmp_path / "guest") as running:
        running.wait_ready()
        running.work()
        stats = running.still_stats()
    assert existing.read_bytes() == b"mine"
    assert stats.recorded == 0
    assert sum(stats.unrecorded.values()) == stats.translated
    assert "can't create" in running.log()


def test_journal_max(tmp_path: Path) -> None:
    journal = tmp_path / "cold.journal"
    limit = 4 << 20
    stats = run(Start(journal=journal, journal_max=limit), tmp_path / "guest")
    assert stats.unrecorded["journal-full"] > 10_000
    assert limit // 2 < journal.stat().st_size <= limit
    kept = read_journal(journal)
    assert 1000 < len(kept.blocks) <= stats.recorded
    assert (kept.damaged, kept.tail_bytes) == (0, 0)


def kill_while_recording(start: Start, directory: Path) -> None:
    with guest(start, directory) as running:
        running.wait_for("recorded", 30_000)
        running.process.kill()
        running.process.wait(10.0)


def test_kill_9_while_recording(tmp_path: Path) -> None:
    journal = tmp_path / "cold.journal"
    kill_while_recording(Start(journal=journal), tmp_path / "killed")
    kept = read_journal(journal)
    assert len(kept.blocks) > 10_000
    assert kept.damaged == 0
    pack = make_pack(journal, tmp_path / "store")
    warm = run(Start(READ_ONLY, [pack]), tmp_path / "warm")
    assert warm.adopted > 10_000
    assert sum(warm.rejected.values()) == 0


def test_a_torn_journal_keeps_what_is_whole(tmp_path: Path) -> None:
    journal = tmp_path / "cold.journal"
    kill_while_recording(Start(journal=journal), tmp_path / "killed")
    whole = len(read_journal(journal).blocks)
    os.truncate(journal, journal.stat().st_size - 1)
    torn = read_journal(journal)
    assert len(torn.blocks) == whole - 1
    assert torn.tail_bytes > 0


def some_boot(running: Guest) -> TbCacheStats:
    running.wait_for("requested", 20_000)
    stats = running.still_stats()
    assert stats.requested == stats.adopted + stats.translated
    assert sum(stats.misses.values()) == stats.translated
    return stats


def test_icount_is_refused_with_the_reason(pack: Path, tmp_path: Path) -> None:
    journal = tmp_path / "never.journal"
    start = Start(packs=[pack], journal=journal, sets=(NOKASLR, "qemu_args=[-icount, shift=auto]"))
    with guest(start, tmp_path / "guest") as running:
        running.wait_ready()
        info = running.info()
    assert info["active"] is False
    assert "icount" in info["reason"]
    assert (info["adopted"], info["recorded"], info["packs"]) == (0, 0, [])
    assert "the machine runs without it" in running.log()
    assert not journal.exists()


def test_one_instruction_a_block(pack: Path, tmp_path: Path) -> None:
    start = Start(packs=[pack], journal=tmp_path / "j", accel="one-insn-per-tb=on")
    with guest(start, tmp_path / "guest") as running:
        stats = some_boot(running)
    assert stats.adopted == 0
    assert stats.recorded == 0
    assert stats.misses["count"] == stats.translated
    assert stats.unrecorded["uncacheable"] == stats.translated


def test_logged_translations(pack: Path, tmp_path: Path) -> None:
    # nothing lies in this range, so nothing is written
    options = f"qemu_args=[-d, in_asm, -D, {tmp_path / 'asm.log'}, -dfilter, 0x10..0x11]"
    start = Start(packs=[pack], journal=tmp_path / "j", sets=(NOKASLR, options))
    with guest(start, tmp_path / "guest") as running:
        stats = some_boot(running)
    assert stats.adopted == 0
    assert stats.recorded == 0
    assert stats.misses["logging"] > 19_000


def test_a_second_object(tmp_path: Path) -> None:
    extra = "qemu_args=[-object, 'tb-cache,id=second']"
    directory = tmp_path / "guest"
    directory.mkdir()
    line = command_line(Start(sets=(NOKASLR, extra)), directory)
    with QemuProcess(line, directory) as process:
        assert process.wait(60.0) == 1
        error = process.launch_error()
    assert isinstance(error, LaunchError)
    assert "there can be only one tb-cache object" in error.detail


def test_an_object_that_comes_too_late(tmp_path: Path) -> None:
    """Blocks lie otherwise with one: it can't come while vCPUs run."""
    with guest(Start(CacheMode.OFF), tmp_path / "guest") as running:
        with pytest.raises(QmpError, match="before the machine starts"):
            running.qmp.execute("object-add", {"qom-type": "tb-cache", "id": "late"})
        running.wait_ready()


def test_a_second_object_while_running(tmp_path: Path) -> None:
    with guest(Start(), tmp_path / "guest") as running:
        with pytest.raises(QmpError, match="only one tb-cache object"):
            running.qmp.execute("object-add", {"qom-type": "tb-cache", "id": "second"})
        with pytest.raises(QmpError, match="can not be deleted"):
            running.qmp.execute("object-del", {"id": "tbcache0"})
        assert running.stats().mode == "on"


def test_bad_packs_added_while_running(pack: Path, tmp_path: Path) -> None:
    bad = damaged(pack, tmp_path / "bad.pack", put("version", 9))
    with guest(Start(), tmp_path / "guest") as running:
        running.qmp.execute("x-tb-cache-add-pack", {"path": str(bad)})
        running.qmp.execute("x-tb-cache-add-pack", {"path": str(tmp_path / "missing.pack")})
        stats = running.stats()
        assert [p.status for p in stats.packs] == ["version", "unreadable"]
        running.wait_for("requested", 1000)
