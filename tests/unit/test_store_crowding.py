# SPDX-License-Identifier: GPL-2.0-or-later
"""Many blocks with one key of the index: which a pack has, and what lookups do."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storehelp import FINGERPRINT, TEXT, ingest, make_blocks, table_of
from test_store_pack import query

from bench.reference import lookup
from bench.reference.journalwriter import BlockData
from sysqcache.cli import cachewhy
from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import BlockTable
from sysqcache.store import key
from sysqcache.store.columns import Columns
from sysqcache.store.crowding import crowded
from sysqcache.store.facade import Store
from sysqcache.store.meta import Meta
from sysqcache.store.pack import Pack, slots_for
from sysqcache.store.verify import unfindable
from sysqcache.store.writer import PackPieces

MOST = 48


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer than the store writes, so that little data crosses the border."""
    monkeypatch.setattr(bf, "MAX_SAME_KEY", MOST)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def same_key(*numbers: int, place: int = 0x10) -> list[BlockData]:
    """Blocks that differ behind their first eight bytes alone."""
    return [
        BlockData(guest=b"the same" + n.to_bytes(3, "little"), code=b"\xc3", pc=place)
        for n in numbers
    ]


def short_keys(count: int) -> list[BlockData]:
    """Blocks that are indexed by their first byte, each for another reason."""
    short = [BlockData(guest=b"s" + bytes([n]) * 3, code=b"\xc3", pc=0x10) for n in range(count)]
    moving = BlockData(guest=b"s" + b"\x80" * 8, code=b"\xc3" * 9, imms=((1, 2),), pc=0x10)
    return [*short[:-1], moving]


def pack_of(table: BlockTable) -> Pack:
    """All blocks of ``table``, however many share a key."""
    pieces = PackPieces.plan(FINGERPRINT, TEXT, [table])
    return Pack(memoryview(b"".join(pieces.chunks())))


def numbers(store: Store) -> list[int]:
    """Which blocks of :func:`same_key` the next start maps."""
    tables = [Pack.open(path).blocks() for path in store.boot_set("image", "x86_64")]
    found = [bytes(t.guest_bytes(i)) for t in tables for i in range(len(t))]
    return sorted(int.from_bytes(g[8:], "little") for g in found if g[:8] == b"the same")


@pytest.mark.parametrize("blocks", [same_key(*range(100)), short_keys(100)], ids=["long", "short"])
def test_the_first_of_a_run_are_kept(store: Store, blocks: list[BlockData]) -> None:
    result = ingest(store, [*make_blocks(*range(20)), *blocks])
    assert (result.blocks_new, result.crowded, result.blocks_known) == (20 + MOST, 100 - MOST, 0)
    assert [w for w in result.warnings if "crowded" in w] == list(result.warnings)
    assert f"{100 - MOST} blocks were left out" in result.warnings[0]
    table = Pack.open(result.packs[0]).blocks()
    found = {bytes(table.guest_bytes(i)) for i in range(len(table))}
    assert found >= {block.guest for block in blocks[:MOST]}
    assert store.verify().good
    assert store.verify().blocks == 20 + MOST


def test_counts_are_kept_with_the_run(store: Store) -> None:
    ingest(store, make_blocks(*range(5)))
    result = ingest(store, same_key(*range(60)))
    found = store.misses("m")
    assert found is not None
    assert (found.run.crowded, found.run.crowded_new, result.crowded) == (12, 12, 12)
    assert found.recorded == 60
    assert cachewhy._values(found, "")["blocks"]["crowded"] == 12


def test_what_is_left_out_finds_room_in_the_next_pack(store: Store) -> None:
    ingest(store, same_key(*range(60)))
    result = ingest(store, same_key(*range(60)))
    assert (result.blocks_new, result.blocks_known, result.crowded) == (12, MOST, 0)
    assert numbers(store) == list(range(60))


def test_a_merge_keeps_those_that_were_used_last(store: Store) -> None:
    ingest(store, same_key(*range(40)))
    ingest(store, same_key(*range(40, 80)))
    ingest(store, same_key(*range(80, 90), 3, 50))  # 3 and 50 again
    result = ingest(store, [*same_key(90), *make_blocks(1)])
    assert (result.blocks_new, result.crowded) == (2, 91 - MOST)
    kept = numbers(store)
    assert len(kept) == MOST
    # the new one, those of the run before, then of the second run, which came first
    assert kept == sorted([90, *range(80, 90), 3, *range(40, 76)])
    run = store.misses("m")
    assert run is not None
    assert (run.run.crowded, run.run.crowded_new) == (91 - MOST, 0)
    assert store.verify().good
    assert sum(line.blocks for line in store.list_modules()) == MOST + 1


def test_export_and_import(store: Store, tmp_path: Path) -> None:
    for number in range(3):
        ingest(store, same_key(*range(40 * number, 40 * number + 40)))
    report = store.export(tmp_path / "f")
    assert (report.blocks, len(store.warnings)) == (MOST, 1)
    other = Store.open(tmp_path / "other")
    ingest(other, same_key(*range(200, 210)), image="image")
    result = other.import_bundle(tmp_path / "f")
    assert (result.blocks_new, result.crowded) == (MOST, 0)
    assert numbers(other) == [*range(40, 48), *range(80, 120), *range(200, 210)]
    assert other.verify().good


def test_import_into_packs_that_are_merged(store: Store, tmp_path: Path) -> None:
    ingest(store, same_key(*range(40)))
    store.export(tmp_path / "f")
    other = Store.open(tmp_path / "other")
    for number in range(3):
        ingest(other, same_key(*range(100 + 10 * number, 110 + 10 * number)))
    result = other.import_bundle(tmp_path / "f")
    assert (result.blocks_new, result.crowded) == (40, 70 - MOST)
    assert [w for w in other.warnings if "crowded" in w] != []
    assert set(range(40)) <= set(numbers(other))
    with Meta(other.layout.meta, read_only=True) as meta:
        assert (meta.runs()[-1].crowded, meta.runs()[-1].crowded_new) == (70 - MOST, 0)


def test_other_keys_are_other_chains(store: Store) -> None:
    variants = [
        {"pc": 0x20}, {"flags": 1}, {"cflags": 1}, {"cs_base": 1}, {"guest": b"the some" + b"abc"},
    ]  # fmt: skip
    blocks = same_key(*range(MOST))
    blocks += [dataclasses.replace(blocks[0], **change) for change in variants]  # type: ignore[arg-type]
    assert ingest(store, blocks).crowded == 0


def test_lookups_compare_so_many_and_no_more() -> None:
    blocks = same_key(*range(bf.MAX_CANDIDATES + 5))
    pack = pack_of(table_of(blocks))
    found = [lookup.find(pack, query(block)) is not None for block in blocks]
    assert found == [True] * bf.MAX_CANDIDATES + [False] * 5
    assert unfindable(pack, pack.blocks()) == 5


def test_entries_of_other_keys_do_not_count() -> None:
    """All have one tag and one home, as a seed that a guest knew would allow."""
    blocks = [*same_key(*range(70), place=0x30), *same_key(*range(3))]
    table, slots = table_of(blocks), slots_for(len(blocks))
    own = {seed: int(key.index_hashes(table_of(same_key(0)), seed)[0]) for seed in range(99)}
    seed = next(seed for seed, value in own.items() if lookup.home_slot(value, slots) < 20)
    content = bytearray(b"".join(PackPieces.plan(FINGERPRINT, TEXT, [table], seed=seed).chunks()))
    pack = Pack(memoryview(content))
    entries = np.zeros(pack.header.index_entries, bf.INDEX_ENTRY.dtype)
    room = entries[lookup.home_slot(own[seed], slots) :][: len(blocks)]
    room["position"] = pack.blocks().offsets // bf.ALIGN
    room["prefix"] = np.frombuffer(b"the some" * 70 + b"the same" * 3, "<u8")
    room["tag"] = own[seed] & 0xFFFF
    content[pack.header.index_offset :] = entries.tobytes()
    assert lookup.find(pack, query(blocks[-1])) == pack.blocks().offsets[-1]


def test_blocks_out_of_reach_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf, "MAX_WALK", 6)
    table = table_of([b for n in range(40) for b in same_key(*range(5), place=8 * n)])
    seed = 7
    (out,) = crowded([table], None, seed)
    assert 0 < out.sum() < len(table)
    kept = table.select(~out)
    pieces = PackPieces.plan(FINGERPRINT, TEXT, [kept], seed=seed)
    pack = Pack(memoryview(b"".join(pieces.chunks())))
    for row in range(len(kept)):
        head = kept.headers[row]
        asked = query(same_key(0)[0], bytes(kept.guest_bytes(row)))
        asked = dataclasses.replace(asked, page_offset=int(head["page_offset"]))
        assert lookup.find(pack, asked) is not None
    whole = PackPieces.plan(FINGERPRINT, TEXT, [table], seed=seed)
    far = Pack(memoryview(b"".join(whole.chunks())))
    assert far.index.tobytes() != pack.index.tobytes()


KEYS = st.lists(st.integers(0, 3), max_size=60)


@given(st.lists(KEYS, min_size=1, max_size=3), st.data())
@settings(max_examples=40, deadline=None)
def test_the_best_of_each_key_stay(keys: list[list[int]], data: st.DataObject) -> None:
    limit = data.draw(st.integers(1, 20))
    tables = [
        table_of([same_key(256 * t + n, place=64 * k)[0] for n, k in enumerate(part)])
        for t, part in enumerate(keys)
    ]
    columns = []
    for table in tables:
        fresh = Columns.new(table, key.identities(table), 1, 1)
        marks = st.lists(st.integers(1, 4), min_size=len(table), max_size=len(table))
        last, uses = (np.array(data.draw(marks), "<u4") for _ in range(2))
        columns.append(dataclasses.replace(fresh, last=last, uses=uses))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bf, "MAX_SAME_KEY", limit)
        out = [mask.tolist() for mask in crowded(tables, columns, 5)]
    assert [len(mask) for mask in out] == [len(part) for part in keys]
    flat = [
        (k, -int(c.last[n]), -int(c.uses[n]), t, n)
        for t, (part, c) in enumerate(zip(keys, columns, strict=True))
        for n, k in enumerate(part)
    ]
    seen: Counter[int] = Counter()
    for k, _, _, t, n in sorted(flat):
        assert out[t][n] == (seen[k] >= limit)
        seen[k] += 1
