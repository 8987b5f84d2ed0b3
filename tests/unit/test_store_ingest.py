# SPDX-License-Identifier: GPL-2.0-or-later
"""Journals into packs: dedupe, merging, boot sets, what the metadata say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from storehelp import (
    FINGERPRINT,
    OTHER_FINGERPRINT,
    ingest,
    make_block,
    make_blocks,
    make_run,
    write_journal,
)

from sysqcache.base.errors import FormatError, StoreBusy, StoreError, StoreVersionError
from sysqcache.store.columns import CHUNK
from sysqcache.store.facade import Store
from sysqcache.store.layout import writing
from sysqcache.store.manifest import MAX_FINGERPRINTS
from sysqcache.store.meta import Meta
from sysqcache.store.pack import Pack
from sysqcache.store.records import PackStatus


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def kept_guests(store: Store) -> list[bytes]:
    """Guest bytes of all blocks that the next start maps."""
    tables = [Pack.open(p).blocks() for p in store.boot_set("image", "x86_64")]
    return sorted(bytes(t.guest_bytes(i)) for t in tables for i in range(len(t)))


def guests(*numbers: int) -> list[bytes]:
    return sorted(make_block(n).guest for n in numbers)


def test_new_store_is_private_and_empty(store: Store) -> None:
    assert store.layout.root.stat().st_mode & 0o777 == 0o700
    assert store.boot_set("image", "x86_64") == []
    assert store.list_modules() == []
    assert store.stats().bytes == 0
    assert store.warnings == []


def test_first_run(store: Store) -> None:
    result = ingest(store, make_blocks(*range(30)))
    assert (result.blocks_new, result.blocks_known, result.damaged) == (30, 0, 0)
    assert result.packs
    assert store.boot_set("image", "x86_64") == [result.packs[0]]
    assert store.boot_set("image", "aarch64") == []
    assert list(store.layout.journals.iterdir()) == []
    (module,) = store.list_modules()
    assert (module.id, module.kind, module.blocks, module.images) == (
        "unplaced:image:image",
        "unknown",
        30,
        1,
    )
    assert module.fingerprint == FINGERPRINT.hex()
    assert module.bytes == int(Pack.open(result.packs[0]).header.blocks_size)


def test_known_and_repeated_blocks_are_dropped(store: Store) -> None:
    ingest(store, make_blocks(0, 1, 2))
    result = ingest(store, make_blocks(2, 3, 3, 1, 4))
    assert (result.blocks_new, result.blocks_known) == (2, 3)
    assert kept_guests(store) == guests(0, 1, 2, 3, 4)
    result = ingest(store, make_blocks(4, 0))
    assert (result.blocks_new, result.blocks_known, result.packs) == (0, 2, ())


def test_first_recording_wins(store: Store) -> None:
    import dataclasses

    one = make_block(1)
    result = ingest(store, [one, dataclasses.replace(one, code=b"other")])
    assert result.blocks_new == 1
    assert result.packs
    assert one.code in result.packs[0].read_bytes()


def test_block_metadata(store: Store) -> None:
    ingest(store, make_blocks(0, 1, 2), image="a")
    ingest(store, make_blocks(2, 1, 2, 3), image="b")
    with Meta(store.layout.meta, read_only=True) as meta:
        rows = sorted(meta.packs().values(), key=lambda r: r.created)
        first, second = (meta.columns(row) for row in rows)
        assert first.uses.tolist() == [1, 2, 2]
        assert first.first.tolist() == [1, 1, 1]
        assert first.last.tolist() == [1, 2, 2]
        assert second.first.tolist() == [2]
        table = Pack.open(store.layout.pack(rows[0].sha256)).blocks()
        assert first.offsets().tolist() == table.offsets.tolist()
        assert meta.runs()[0].run_id.startswith("run")
        assert {i.image_id: i.number for i in meta.images().values()} == {"a": 1, "b": 2}
    assert {m.name: m.blocks for m in store.list_modules()} == {"a": 3, "b": 1}


def test_fourth_pack_of_a_group_is_merged_with_the_others(store: Store) -> None:
    for number in range(3):
        ingest(store, make_blocks(2 * number, 2 * number + 1), image="i")
    other = ingest(store, make_blocks(9), image="other")
    assert len(store.boot_set("i", "x86_64")) == 4
    before = {p.name for p in store.layout.packs.iterdir()}
    result = ingest(store, make_blocks(3, 6), image="i")
    assert (result.blocks_new, result.blocks_known) == (1, 1)
    assert store.boot_set("i", "x86_64") == [result.packs[0], other.packs[0]]
    assert result.packs
    table = Pack.open(result.packs[0]).blocks()
    assert [bytes(table.guest_bytes(i)) for i in range(7)] == [
        b.guest for b in make_blocks(*range(7))
    ]
    assert before < {p.name for p in store.layout.packs.iterdir()}  # compact alone deletes
    assert {m.name: m.blocks for m in store.list_modules()} == {"i": 7, "other": 1}
    with Meta(store.layout.meta, read_only=True) as meta:
        row = meta.packs()[result.packs[0].stem]
        assert meta.columns(row).uses.tolist() == [1, 1, 1, 2, 1, 1, 1]
        assert sum(r.status == PackStatus.SUPERSEDED for r in meta.packs().values()) == 3
    assert store.verify().good


def test_merge_leaves_damaged_blocks_behind(store: Store) -> None:
    results = [ingest(store, make_blocks(2 * n, 2 * n + 1)) for n in range(3)]
    assert results[1].packs
    damage(results[1].packs[0], 4096 + 48)
    ingest(store, make_blocks(8))
    assert kept_guests(store) == guests(0, 1, 3, 4, 5, 8)
    assert ingest(store, make_blocks(2)).blocks_new == 1  # recorded again


def damage(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["missing", "truncated", "header", "writable"])
def test_lost_packs_are_recorded_again(store: Store, how: str) -> None:
    first = ingest(store, make_blocks(0, 1, 2)).packs[0]
    assert first is not None
    if how == "missing":
        first.unlink()
    elif how == "truncated":
        os.truncate(first, 5000)
    elif how == "header":
        damage(first, 20)
    else:
        first.chmod(0o666)
    assert store.boot_set("image", "x86_64") == []
    assert len(store.warnings) == 1
    result = ingest(store, make_blocks(1, 2, 3))
    assert result.blocks_new == 3
    assert len(result.warnings) == 1
    assert kept_guests(store) == guests(1, 2, 3)
    assert first.exists() == (how != "missing")


def test_fingerprints_do_not_share_blocks(store: Store) -> None:
    one = ingest(store, make_blocks(0, 1))
    two = ingest(store, make_blocks(0, 1), fingerprint=OTHER_FINGERPRINT)
    assert two.blocks_new == 2
    assert store.boot_set("image", "x86_64") == [two.packs[0], one.packs[0]]  # the latest first
    three = ingest(store, make_blocks(5), image="other")
    assert three.packs
    assert store.boot_set("other", "x86_64")[0] in (one.packs[0], three.packs[0])  # its own first


def test_boot_set_names_few_fingerprints(store: Store) -> None:
    packs = [ingest(store, make_blocks(0), fingerprint=bytes([n]) * 32).packs[0] for n in range(6)]
    assert store.boot_set("image", "x86_64") == packs[: -MAX_FINGERPRINTS - 1 : -1]


def test_boot_set_without_a_readable_list(store: Store) -> None:
    pack = ingest(store, make_blocks(0)).packs[0]
    store.layout.boot_sets.write_text("{")
    assert store.boot_set("image", "x86_64") == []
    assert len(store.warnings) == 1
    ingest(store, make_blocks(0))
    assert store.boot_set("image", "x86_64") == [pack]


def test_same_journal_twice_counts_once(store: Store, tmp_path: Path) -> None:
    journal = write_journal(tmp_path / "j", make_blocks(0, 1))
    content = journal.read_bytes()
    one = store.ingest(journal, image_id="image", run=make_run())
    assert not journal.exists()
    write_journal(tmp_path / "j", []).write_bytes(content)
    two = store.ingest(journal, image_id="image", run=make_run())
    assert (two.blocks_new, two.packs) == (one.blocks_new, one.packs)
    assert store.stats().runs == 1


def test_journals_without_content(store: Store, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch(mode=0o600)
    assert store.ingest(empty, image_id="image", run=make_run()).blocks_new == 0
    assert not empty.exists()
    torn = store.layout.journals / "torn.journal"
    torn.write_bytes(b"SYSQJRNL")
    torn.chmod(0o600)
    with pytest.raises(FormatError) as caught:
        store.ingest(torn, image_id="image", run=make_run())
    assert caught.value.reason == "truncated"
    assert str(store.layout.damaged) in caught.value.hint
    assert [p.name.split(".")[0] for p in store.layout.damaged.iterdir()] == ["torn"]
    with pytest.raises(StoreError, match="No such file"):
        store.ingest(tmp_path / "absent", image_id="image", run=make_run())


def test_damaged_and_torn_records_are_counted(store: Store, tmp_path: Path) -> None:
    journal = write_journal(tmp_path / "j", make_blocks(0, 1), tail=make_block(2).record()[:50])
    damage(journal, 4096 + 48 + 60)
    result = store.ingest(journal, image_id="image", run=make_run())
    assert (result.blocks_new, result.damaged) == (1, 1)


def test_more_blocks_than_a_chunk(store: Store) -> None:
    count = CHUNK + 100
    result = ingest(store, make_blocks(*range(count)))
    assert result.blocks_new == count
    again = ingest(store, make_blocks(0, CHUNK, count - 1, count))
    assert (again.blocks_new, again.blocks_known) == (1, 3)


def test_leftover_journals_are_recovered(store: Store) -> None:
    run = make_run("killed")
    journal = store.new_journal(image_id="image", run=run)
    assert store.recover() == []  # not written yet
    write_journal(journal, make_blocks(0, 1))
    with journal.open("ab"):
        assert store.recover() == []  # QEMU still runs
    (result,) = store.recover()
    assert result.blocks_new == 2
    assert list(store.layout.journals.iterdir()) == []
    assert store.list_modules()[0].name == "image"


def test_recovery_moves_bad_journals_aside(store: Store) -> None:
    journal = store.new_journal(image_id="image", run=make_run())
    journal.write_bytes(b"x" * 5000)
    journal.chmod(0o600)
    assert store.recover() == []
    assert len(store.warnings) == 1
    assert list(store.layout.journals.iterdir()) == []


def test_busy_store(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store", timeout=0.1)
    journal = write_journal(tmp_path / "j", make_blocks(0))
    with writing(store.layout):
        with pytest.raises(StoreBusy):
            store.ingest(journal, image_id="image", run=make_run())
        assert store.boot_set("image", "x86_64") == []
        assert store.list_modules() == []
    assert journal.exists()


def test_newer_store_is_not_touched(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir(mode=0o700)
    (root / "FORMAT").write_text("sysqcache store 2\n")
    with pytest.raises(StoreVersionError):
        Store.open(root)
    assert [p.name for p in root.iterdir()] == ["FORMAT"]


@pytest.mark.parametrize("text", ["", "sysqcache store x\n", "\0" * 50, "sysqcache store -1"])
def test_unreadable_version(tmp_path: Path, text: str) -> None:
    root = tmp_path / "store"
    root.mkdir(mode=0o700)
    (root / "FORMAT").write_text(text)
    with pytest.raises(FormatError):
        Store.open(root)


def test_store_that_others_could_write_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.mkdir()
    root.chmod(0o770)
    with pytest.raises(StoreError, match="other users"):
        Store.open(root)


def test_store_path_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(StoreError):
        Store.open(path)


def test_manifest_is_json_that_people_can_read(store: Store) -> None:
    ingest(store, make_blocks(0))
    values = json.loads(store.layout.boot_sets.read_text())
    assert values["version"] == 1
    assert [p["blocks"] for p in values["packs"]] == [1]
