# SPDX-License-Identifier: GPL-2.0-or-later
"""Stores, journals and bundles of format version 1: recognised, never used, removed."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from storehelp import ingest, make_block, make_blocks, make_run
from test_store_modules import BIOS, KERNEL, LIBC, SHELL
from typer.testing import CliRunner

from sysqcache.base.errors import FormatError, StoreError
from sysqcache.cli.cache import app
from sysqcache.formats.runfiles import RunFiles
from sysqcache.machine.cache import Keeper, StartSet
from sysqcache.machine.report import cache_json
from sysqcache.qmp.commands import TbCacheStats
from sysqcache.store.facade import Store
from sysqcache.store.meta import Meta
from sysqcache.store.pack import Pack
from sysqcache.store.records import PackRow, PackStatus

GOLDEN = Path(__file__).parents[1] / "golden"
PACKS = 8
"""In the store of version 1: five live ones with 39 blocks, three superseded."""


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The golden store of version 1, with a journal that waits and a pack that is pinned."""
    content = zstandard.decompress((GOLDEN / "v1-store.tar.zst").read_bytes())
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(tmp_path, filter="data")
    monkeypatch.setenv("SYSQCACHE_STORE", str(tmp_path / "store"))
    return Store.open(tmp_path / "store")


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.exception
    return result.stdout


def values(*arguments: str) -> Any:
    return json.loads(shown(*arguments, "--json"))


def pack_names(store: Store) -> set[str]:
    return {path.stem for path in store.layout.packs.iterdir()}


def rows(store: Store) -> dict[str, PackRow]:
    return {row.sha256: row for row in store.packs()}


def guests(store: Store) -> list[bytes]:
    tables = [Pack.open(path).blocks() for path in store.boot_set("one", "x86_64")]
    return sorted(bytes(t.guest_bytes(i)) for t in tables for i in range(len(t)))


def test_the_store_is_what_the_tests_say(old: Store) -> None:
    found = rows(old).values()
    assert sorted(row.status for row in found) == ["live"] * 5 + ["superseded"] * 3
    assert sum(row.blocks for row in found if row.status == "live") == 39
    assert all(row.outdated and not row.live for row in found)


def test_machines_start_cold(old: Store) -> None:
    def never() -> list[Any]:
        raise AssertionError("nothing of the image could be used")

    assert old.boot_set("one", "x86_64", never) == []
    assert old.boot_set("new", "x86_64", never) == []
    assert old.warnings == []


def test_lists(old: Store) -> None:
    out = shown("list")
    assert "The store is empty." in out
    assert "8 packs are of an earlier format version, which no engine reads" in out
    listed = values("list")
    assert (listed["modules"], listed["store"]["outdated"], listed["store"]["superseded"]) == (
        [], PACKS, 0,
    )  # fmt: skip


def test_verify_does_not_call_them_damaged(old: Store) -> None:
    report = old.verify()
    assert (report.good, report.blocks, report.outdated) == (True, 0, PACKS)
    out = shown("verify")
    assert "0 blocks in 0 packs checked" in out
    assert "8 packs of an earlier format version" in out


def test_rebuild_does_not_call_them_damaged(old: Store) -> None:
    report = old.rebuild()
    assert (report.packs, report.outdated, report.lost, report.moved) == (0, PACKS, 0, [])
    assert {row.status for row in old.packs()} == {PackStatus.OUTDATED}
    assert not old.layout.damaged.exists()
    assert "8 packs of an earlier format version" in shown("rebuild")
    assert old.compact().removed == PACKS


@pytest.mark.parametrize("boot_sets", [True, False])
def test_lost_metadata(old: Store, boot_sets: bool) -> None:
    shutil.rmtree(old.layout.meta)
    if not boot_sets:
        old.layout.boot_sets.unlink()
    assert ingest(old, make_blocks(0, 1), image="one").blocks_new == 2
    assert sum(row.status == PackStatus.OUTDATED for row in old.packs()) == PACKS
    assert len(guests(old)) == 2
    assert not old.layout.damaged.exists()


def test_the_next_run_gives_up_their_metadata(old: Store) -> None:
    result = ingest(old, make_blocks(0, 1), image="one")
    assert (result.blocks_new, result.blocks_known) == (2, 0)
    (warning,) = result.warnings
    assert "blocks in 8 packs of before format version 2 are not used any more" in warning
    assert "cache compact" in warning
    found = rows(old)
    new = {path.stem for path in result.packs}
    assert {row.status for name, row in found.items() if name not in new} == {PackStatus.OUTDATED}
    with Meta(old.layout.meta, read_only=True) as meta:
        columns = {key.split(b"/")[1].decode() for key, _ in meta._scan_items(b"b/")}
        assert columns == new
        assert {m.module for m in meta.modules().values()} >= {KERNEL, LIBC, SHELL, BIOS}
    assert ingest(old, make_blocks(2), image="one").warnings == ()
    assert guests(old) == sorted(b.guest for b in make_blocks(0, 1, 2))
    assert old.verify().good


def test_compact_removes_what_no_engine_reads(old: Store) -> None:
    """At once, and what a saved machine relied on too: it would not get it."""
    report = old.compact()
    assert (report.removed, report.bytes_left) == (PACKS, 0)
    assert old.packs() == []
    assert old.verify().good
    assert old.stats().outdated == 0


def test_compact_loses_nothing_of_this_version(old: Store) -> None:
    for number in range(3):
        ingest(old, make_blocks(2 * number, 2 * number + 1), image="one")
    before = guests(old)
    kept = pack_names(old) - {name for name, row in rows(old).items() if row.outdated}
    stray = old.layout.pack("f" * 64)
    stray.write_bytes((GOLDEN / "v1.pack").read_bytes())
    assert "9 packs removed" in shown("compact")
    assert pack_names(old) == kept
    assert guests(old) == before == sorted(make_block(n).guest for n in range(6))
    assert old.verify().good


def test_compact_of_a_store_that_a_machine_uses(old: Store) -> None:
    held = old.hold()
    try:
        assert old.compact().in_use
    finally:
        import os

        os.close(held)
    assert len(pack_names(old)) == PACKS


def test_journals_that_were_left_behind(old: Store) -> None:
    (journal,) = old.layout.journals.glob("*.journal")
    assert old.recover() == []
    (warning,) = old.warnings
    assert "5 recorded blocks are not kept" in warning
    assert "before format version 2" in warning
    assert list(old.layout.journals.iterdir()) == []
    (moved,) = old.layout.outdated.iterdir()
    assert moved.name.startswith(journal.name)
    assert str(moved) in warning
    assert old.recover() == []
    assert "8 packs and 1 journal are of an earlier format version" in shown("list")
    report = old.compact()
    assert report.removed == PACKS
    assert report.bytes_freed > PACKS * 8192 + 5000
    assert list(old.layout.outdated.iterdir()) == []


def test_what_an_engine_of_before_records(old: Store, tmp_path: Path) -> None:
    """A line and a number for the report; one journal stays, not one for each run."""
    for number in range(3):
        journal = old.layout.journals / f"run{number}.journal"
        shutil.copyfile(GOLDEN / "v1.journal", journal)
        journal.chmod(0o600)
        (tmp_path / "places").write_bytes(b"x")
        shutil.copyfile(tmp_path / "places", journal.with_name(f"{journal.name}.places"))
        said: list[str] = []
        start = StartSet(make_run(journal.stem), "one", files=RunFiles(journal))
        summary = Keeper(said.append, old.layout.root).keep(start)
        assert (summary.blocks_new, summary.outdated) == (0, 12)
        assert len(said) == 1
        assert "the engine that wrote them is of before format version 2" in said[0]
        assert cache_json(TbCacheStats(), summary)["blocks_outdated"] == 12
        assert not list(old.layout.journals.glob("run*"))
        assert len(list(old.layout.outdated.iterdir())) == 1
    assert not old.layout.damaged.exists()


def test_an_engine_of_before_that_recorded_nothing(old: Store) -> None:
    (journal,) = old.layout.journals.glob("*.journal")
    journal.write_bytes(journal.read_bytes()[:4096])
    assert old.recover() == []
    assert "0 recorded blocks are not kept" in old.warnings[0]
    assert len(list(old.layout.outdated.iterdir())) == 1


def test_damaged_journals_leave_no_list_of_places(old: Store) -> None:
    journal = old.layout.journals / "bad.journal"
    for path in (journal, journal.with_name("bad.journal.places")):
        path.write_bytes(b"x" * 5000)
        path.chmod(0o600)
    with pytest.raises(FormatError):
        old.ingest(journal, image_id="one", run=make_run())
    assert not list(old.layout.journals.glob("bad*"))


def test_bundles(old: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds nothing"):
        old.export(tmp_path / "f")
    bundle = tmp_path / "bundle.tar.zst"
    shutil.copyfile(GOLDEN / "v1-bundle.tar.zst", bundle)
    bundle.chmod(0o600)
    with pytest.raises(FormatError, match="format version 1, and version 2 is read") as caught:
        old.import_bundle(bundle)
    assert caught.value.reason == "version"
    assert "export it anew" in caught.value.hint
    assert len(pack_names(old)) == PACKS
