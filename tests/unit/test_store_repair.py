# SPDX-License-Identifier: GPL-2.0-or-later
"""Verify, rebuild and compact; damaged RocksDB."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from storehelp import OTHER_FINGERPRINT, ingest, make_blocks, without_times

from sysqcache.store.facade import Store
from sysqcache.store.meta import Meta, MetaDamaged
from sysqcache.store.pack import Pack
from sysqcache.store.writer import write_pack


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "store")
    ingest(store, make_blocks(*range(20)), image="a")
    ingest(store, make_blocks(*range(15, 40)), image="b")
    return store


GROUPS = {"a": "files:1", "b": "files:2"}
"""Blocks that nobody placed stay with the image that brought them."""


def the_pack(store: Store, image: str) -> Path:
    (row,) = [r for r in store.packs() if r.group == GROUPS[image]]
    return store.layout.pack(row.sha256)


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def tables(store: Store) -> tuple[object, ...]:
    """Everything in the metadata except times."""
    with Meta(store.layout.meta, read_only=True) as meta:
        rows = sorted(meta.packs().values(), key=lambda r: r.sha256)
        columns = [meta.columns(r) for r in rows if r.live]
        return (
            [without_times(r) for r in rows],
            [[getattr(c, n).tolist() for n in ("key", "uses", "first", "image")] for c in columns],
            list(meta.fingerprints()),
            [r.run_id for r in meta.runs()],
        )


def test_verify_of_a_good_store(store: Store) -> None:
    seen: list[tuple[int, int]] = []
    report = store.verify(lambda done, total: seen.append((done, total)))
    assert report.good
    assert report.blocks == 40
    assert seen[-1][0] == seen[-1][1] > 0


def test_verify_counts_damaged_blocks(store: Store) -> None:
    flip(the_pack(store, "a"), 4096 + 50)
    report = store.verify()
    assert [p.damaged for p in report.packs if not p.good] == [1]
    assert not report.good


def test_verify_counts_blocks_that_the_index_misses(store: Store) -> None:
    path = the_pack(store, "a")
    pack = Pack.open(path)
    slot = next(i for i, e in enumerate(pack.index) if e["position"])
    flip(path, pack.header.index_offset + 16 * slot + 14)  # the tag
    (bad,) = [p for p in store.verify().packs if not p.good]
    assert bad.unfindable == 1
    assert bad.damaged == 0


@pytest.mark.parametrize("offset", [0, 8, 16, 70, 4090])
def test_verify_names_bad_headers(store: Store, offset: int) -> None:
    flip(the_pack(store, "a"), offset)
    (bad,) = [p for p in store.verify().packs if not p.good]
    assert "not a usable pack" in bad.problem


def test_verify_sees_missing_and_unlisted_packs(store: Store) -> None:
    path = the_pack(store, "a")
    path.rename(store.layout.pack("0" * 64))
    problems = {p.status: p.problem for p in store.verify().packs if not p.good}
    assert problems["live"] == "the file is missing"
    assert problems["unlisted"] == "the content is not what the name says"


def test_rebuild_of_a_good_store_changes_nothing(store: Store) -> None:
    before = tables(store)
    report = store.rebuild()
    assert (report.packs, report.blocks, report.moved) == (2, 40, [])
    assert tables(store) == before
    assert store.verify().good


def test_rebuild_from_packs_alone(store: Store) -> None:
    boot_set = store.boot_set("a", "x86_64")
    shutil.rmtree(store.layout.meta)
    store.layout.boot_sets.unlink()
    report = store.rebuild()
    assert (report.packs, report.blocks) == (2, 40)
    assert set(store.boot_set("a", "x86_64")) == set(boot_set)
    assert {m.id for m in store.list_modules()} == {"unknown"}
    assert ingest(store, make_blocks(3, 39, 40)).blocks_new == 1


def test_rebuild_keeps_images_of_the_boot_sets(store: Store) -> None:
    shutil.rmtree(store.layout.meta)
    store.rebuild()
    assert {m.name: m.blocks for m in store.list_modules()} == {"a": 20, "b": 20}


def test_rebuild_moves_damaged_packs_and_keeps_their_intact_blocks(store: Store) -> None:
    path = the_pack(store, "a")
    flip(path, 4096 + 50)
    report = store.rebuild()
    assert (report.packs, report.blocks, report.salvaged, report.lost) == (2, 39, 19, 1)
    assert not path.exists()
    assert Path(report.moved[0]).read_bytes()
    assert store.verify().good
    assert {m.name: m.blocks for m in store.list_modules()} == {"a": 19, "b": 20}


def test_rebuild_that_ends_before_the_exchange(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tables(store)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", _killed)
        with pytest.raises(KeyboardInterrupt):
            store.rebuild()
    assert len(store.boot_set("a", "x86_64")) == 2
    assert tables(store) == before
    result = ingest(store, make_blocks(3, 60))
    assert (result.blocks_new, result.blocks_known, len(result.warnings)) == (1, 1, 1)
    assert store.verify().good


def _killed(path: Path, **_: object) -> None:
    if path.name == "meta":
        raise KeyboardInterrupt


def test_rebuild_of_a_pack_with_a_bad_header(store: Store) -> None:
    path = the_pack(store, "a")
    os.truncate(path, 6000)
    report = store.rebuild()
    assert (report.packs, report.blocks, report.lost) == (1, 20, 20)
    assert store.verify().good


def test_rebuild_recognises_superseded_packs(store: Store) -> None:
    for number in range(4):
        ingest(store, make_blocks(100 + number))
    assert len(store.boot_set("image", "x86_64")) == 3
    shutil.rmtree(store.layout.meta)
    store.layout.boot_sets.unlink()
    report = store.rebuild()
    assert (report.packs, report.superseded, report.blocks) == (3, 3, 44)


def _no_current(meta: Path) -> None:
    (meta / "CURRENT").unlink()


def _bad_current(meta: Path) -> None:
    (meta / "CURRENT").write_text("garbage\n")


def _no_tables(meta: Path) -> None:
    for path in meta.glob("*.sst"):
        path.unlink()


def _bad_tables(meta: Path) -> None:
    for path in meta.glob("*.sst"):
        path.write_bytes(bytes(path.stat().st_size))


def _flipped_tables(meta: Path) -> None:
    for path in meta.glob("*.sst"):
        for offset in range(0, path.stat().st_size, 64):
            flip(path, offset)


def _bad_manifest(meta: Path) -> None:
    for path in meta.glob("MANIFEST*"):
        path.write_bytes(b"\xff" * 100)


def _gone(meta: Path) -> None:
    shutil.rmtree(meta)


def _a_file(meta: Path) -> None:
    shutil.rmtree(meta)
    meta.write_text("x")


def _older_copy(meta: Path) -> None:
    shutil.rmtree(meta)
    shutil.copytree(meta.with_name("copy"), meta)


@pytest.mark.parametrize(
    "harm",
    [
        _no_current, _bad_current, _no_tables, _bad_tables, _flipped_tables, _bad_manifest,
        _gone, _a_file, _older_copy,
    ],
)  # fmt: skip
def test_damaged_metadata_are_rebuilt_by_the_next_run(
    store: Store, harm: Callable[[Path], None]
) -> None:
    shutil.copytree(store.layout.meta, store.layout.meta.with_name("copy"))
    ingest(store, make_blocks(50))
    harm(store.layout.meta)
    shutil.rmtree(store.layout.meta.with_name("copy"))
    assert len(store.boot_set("a", "x86_64")) == 3  # starts do not need them
    result = ingest(store, make_blocks(3, 39, 50, 60))
    assert (result.blocks_new, result.blocks_known) == (1, 3)
    assert len(result.warnings) == 1
    assert store.verify().good
    if harm not in (_gone, _older_copy):
        assert any(p.name.startswith("meta") for p in store.layout.damaged.iterdir())


def test_listing_repairs_too(store: Store) -> None:
    _bad_current(store.layout.meta)
    assert {m.name: m.blocks for m in store.list_modules()} == {"a": 20, "b": 20}
    assert len(store.warnings) == 1


def test_verify_reports_damaged_metadata(store: Store) -> None:
    _bad_current(store.layout.meta)
    report = store.verify()
    assert not report.good
    assert "metadata are damaged" in report.problems[0]


def test_reading_does_not_make_a_database(tmp_path: Path) -> None:
    with pytest.raises(MetaDamaged):
        Meta(tmp_path / "none", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_compact_removes_what_is_superseded(store: Store) -> None:
    for number in range(4):
        ingest(store, make_blocks(100 + number))
    assert len(list(store.layout.packs.iterdir())) == 6
    before = store.stats().pack_bytes
    report = store.compact()
    assert report.removed == 3
    assert report.bytes_freed == before - store.stats().pack_bytes > 0
    assert store.stats().superseded == 0
    assert len(store.boot_set("image", "x86_64")) == 3
    assert store.verify().good


def test_compact_leaves_packs_in_use(store: Store) -> None:
    for number in range(4):
        ingest(store, make_blocks(100 + number))
    held = store.hold()
    try:
        report = store.compact(0)
        assert report.in_use
        assert len(list(store.layout.packs.iterdir())) == 6
    finally:
        os.close(held)
    assert store.compact().removed == 3


def test_compact_to_a_size_removes_the_least_used(store: Store) -> None:
    ingest(store, make_blocks(1, 2), fingerprint=OTHER_FINGERPRINT)
    (kept,) = [r for r in store.packs() if r.fingerprint == OTHER_FINGERPRINT.hex()]
    report = store.compact(kept.bytes)
    assert report.removed == 2
    assert store.boot_set("a", "x86_64") == [store.layout.pack(kept.sha256)]
    assert report.bytes_left == kept.bytes
    assert store.compact(0).bytes_left == 0
    assert store.list_modules() == []


def test_compact_removes_files_that_nothing_refers_to(store: Store) -> None:
    stray = store.layout.pack("f" * 64)
    stray.write_bytes(b"left by a kill")
    (store.layout.packs / ".new-123.pack").write_bytes(b"half")
    assert store.compact().removed == 1
    assert len(list(store.layout.packs.iterdir())) == 2


def test_rebuild_of_a_damaged_index_mends_the_file(store: Store) -> None:
    """No block is damaged: the pack is made anew under the same name, not moved away."""
    path = the_pack(store, "a")
    before = path.read_bytes()
    slot = next(i for i, entry in enumerate(Pack.open(path).index) if entry["position"])
    flip(path, Pack.open(path).header.index_offset + 16 * slot + 14)  # the tag
    assert not store.verify().good
    report = store.rebuild()
    assert (report.packs, report.blocks, report.lost) == (2, 40, 0)
    assert path.read_bytes() == before
    assert store.verify().good
    assert {m.name: m.blocks for m in store.list_modules()} == {"a": 20, "b": 20}


def test_rebuild_prefers_what_the_metadata_know(store: Store) -> None:
    """A kill before the commit leaves a pack that another one with the same blocks replaces."""
    path = the_pack(store, "a")
    pack = Pack.open(path)
    strays = [
        write_pack(store.layout.packs, pack.header.fingerprint, pack.header.text, [pack.blocks()])
        for _ in range(6)
    ]
    assert min(stray.sha256 for stray in strays) != max(stray.sha256 for stray in strays)
    report = store.rebuild()
    assert (report.packs, report.superseded) == (2, 6)
    live = {row.sha256 for row in store.packs() if row.live}
    assert path.stem in live
    assert {m.name: m.blocks for m in store.list_modules()} == {"a": 20, "b": 20}
    assert store.compact().removed == 6


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sha256", "../../somewhere"),
        ("sha256", "\0" * 64),
        ("blocks", None),
        ("blocks", -1),
        ("blocks", True),
        ("last_used", "yesterday"),
        ("last_used", float("nan")),
        ("last_used", 1e300),
        ("shares", {"1": [1]}),
        ("shares", {"1": ["many", "few"]}),
        ("status", 5),
        ("version", "two"),
    ],
)
def test_boot_sets_with_impossible_rows_map_nothing(
    store: Store, field: str, value: object
) -> None:
    values = json.loads(store.layout.boot_sets.read_text())
    values["packs"][0][field] = value
    store.layout.boot_sets.write_text(json.dumps(values))
    assert store.boot_set("a", "x86_64") == []
    assert len(store.warnings) == 1
    assert "boot sets can't be read" in store.warnings[0]


@pytest.mark.parametrize("generation", ["Infinity", "-1e999", "[]", "[" * 50_000])
def test_boot_sets_of_no_generation(store: Store, generation: str) -> None:
    store.layout.boot_sets.write_text(f'{{"generation": {generation}, "packs": []}}')
    assert store.boot_set("a", "x86_64") == []
    assert len(store.warnings) == 1


def test_pins_that_can_not_be_read(store: Store) -> None:
    store.pin("good", [the_pack(store, "a").stem])
    for number, content in enumerate(("[" * 50_000, "5", "{}", '["x", 5]', "\0")):
        (store.layout.pins / f"{number}.json").write_text(content)
    assert store.compact(0).removed == 1
    assert the_pack(store, "a").exists()
