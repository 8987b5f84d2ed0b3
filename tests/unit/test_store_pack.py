# SPDX-License-Identifier: GPL-2.0-or-later
"""Packs: hash, index, lookup, header checks, atomic writing."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from storehelp import FINGERPRINT, TEXT, make_block, make_blocks, table_of, write_journal

from bench.reference import lookup
from bench.reference.journalwriter import BlockData
from bench.reference.lookup import Query
from sysqcache.base.errors import FormatError
from sysqcache.formats import block as bf
from sysqcache.formats.journal import read_journal
from sysqcache.store import key
from sysqcache.store.pack import Pack, slots_for
from sysqcache.store.verify import check_pack, unfindable
from sysqcache.store.writer import PackPieces, place, write_pack


def pack_of(blocks: list[BlockData]) -> Pack:
    pieces = PackPieces.plan(FINGERPRINT, TEXT, [table_of(blocks)])
    return Pack(memoryview(b"".join(pieces.chunks())))


def query(block: BlockData, guest: bytes | None = None) -> Query:
    return Query(
        cs_base=block.cs_base,
        flags=block.flags,
        cflags=block.cflags,
        page_offset=block.pc & 4095,
        guest=block.guest if guest is None else guest,
    )


def test_hash_by_hand() -> None:
    def mix(x: int) -> int:
        x ^= x >> 32
        x = x * 0x9E3779B97F4A7C15 % 2**64
        return x ^ x >> 29

    seed, turned = 0xFEDCBA9876543210, 0x76543210FEDCBA98
    h = mix(seed ^ (0x123 | 1 << 16))
    h = mix(h ^ 0x1122334455667788)
    h = mix(h ^ turned ^ (7 << 32 | 9))
    h = mix(h ^ 5)
    h = mix(h ^ seed)
    values: dict[str, Any] = {
        "page_offset": 0x123,
        "flags": 7,
        "cflags": 9,
        "cs_base": 5,
        "long": True,
    }
    assert h == lookup.index_hash(seed=seed, prefix=0x1122334455667788, **values)
    assert h != lookup.index_hash(seed=seed + 1, prefix=0x1122334455667788, **values)


def test_vectorised_hash_equals_the_scalar_one() -> None:
    rng = np.random.default_rng(4)
    blocks = [
        BlockData(
            guest=rng.bytes(int(rng.integers(1, 20))),
            code=b"\xc3",
            cs_base=int(rng.integers(0, 2**63)),
            flags=int(rng.integers(0, 2**32)),
            cflags=int(rng.integers(0, 2**32)),
            pc=int(rng.integers(4080, 4096)) if i % 2 else int(rng.integers(0, 2**40)),
        )
        for i in range(500)
    ]
    seed = int(rng.integers(0, 2**64, dtype=np.uint64))
    hashes = key.index_hashes(table_of(blocks), seed)
    for block, value in zip(blocks, hashes.tolist(), strict=True):
        offset = block.pc & 4095
        assert value == lookup.index_hash(
            seed=seed,
            prefix=int.from_bytes(block.guest[:8], "little"),
            page_offset=offset,
            flags=block.flags,
            cflags=block.cflags,
            cs_base=block.cs_base,
            long=lookup.is_long(offset, len(block.guest)),
        )
    slots = key.home_slots(hashes, slots_for(500))
    assert slots.tolist() == [lookup.home_slot(h, slots_for(500)) for h in hashes.tolist()]


def test_identity_holds_every_part_of_the_key() -> None:
    base = make_block(3)
    variants = [
        base,
        dataclasses.replace(base, cs_base=1),
        dataclasses.replace(base, flags=1),
        dataclasses.replace(base, cflags=1),
        dataclasses.replace(base, pc=base.pc + 1),
        dataclasses.replace(base, guest=base.guest[:-1]),
        dataclasses.replace(base, guest=base.guest + b"\0"),
    ]
    assert len(np.unique(key.identities(table_of(variants)))) == len(variants)
    same = [
        base,
        dataclasses.replace(base, code=b"other", search=b"s", pc=base.pc + 8192, icount=9),
    ]
    first, second = key.identities(table_of(same))
    assert first == second


def test_place_fills_slots_in_order() -> None:
    assert place(np.array([0, 0, 0, 2, 9, 9])).tolist() == [0, 1, 2, 3, 9, 10]
    assert place(np.zeros(0, np.int64)).tolist() == []


def test_every_block_is_found() -> None:
    blocks = make_blocks(*range(400))
    pack = pack_of(blocks)
    table = pack.blocks()
    assert len(table) == pack.header.block_count == 400
    assert table.good_checksums().all()
    for row, block in enumerate(blocks):
        assert lookup.find(pack, query(block, block.guest + b"anything")) == table.offsets[row]
    assert unfindable(pack, table) == 0


def test_index_invariants() -> None:
    pack = pack_of(make_blocks(*range(100)))
    index = pack.index
    assert len(index) == pack.header.index_entries > pack.header.slot_count == slots_for(100)
    assert index[-1]["position"] == 0
    assert np.count_nonzero(index["position"]) == 100
    assert pack.header.index_offset % 4096 == 0
    table = pack.blocks()
    assert np.array_equal(
        table.offsets, np.cumsum(table.padded_sizes()) + 4096 - table.padded_sizes()
    )


def test_longer_blocks_win_and_short_keys_are_a_fallback() -> None:
    long, longer = (BlockData(guest=b"abcdefgh" + b"x" * n, code=b"\xc3", pc=16) for n in (0, 4))
    short = BlockData(guest=b"ab", code=b"\xc3", pc=16)
    pack = pack_of([short, long, longer])
    offsets = pack.blocks().offsets.tolist()
    assert lookup.find(pack, query(long, b"abcdefghxxxxyy")) == offsets[2]
    assert lookup.find(pack, query(long, b"abcdefghxx")) == offsets[1]
    assert lookup.find(pack, query(long, b"abcd")) == offsets[0]
    assert lookup.find(pack, query(long, b"abZZZZZZZZZZ")) == offsets[0]
    assert lookup.find(pack, query(long, b"aZ")) is None


def test_blocks_at_the_end_of_a_page_have_short_keys() -> None:
    crossing = BlockData(guest=b"0123456789", code=b"\xc3", pc=4090, block_flags=1)
    pack = pack_of([crossing])
    assert lookup.find(pack, query(crossing)) == 4096
    assert lookup.find(pack, query(crossing, b"0123456788")) is None


def test_other_keys_are_not_found() -> None:
    block = make_block(5)
    pack = pack_of(make_blocks(4, 5, 6))
    asked = query(block)
    assert lookup.find(pack, asked) is not None
    for change in ({"flags": 0}, {"cflags": 1}, {"cs_base": 9}, {"page_offset": 1}):
        assert lookup.find(pack, dataclasses.replace(asked, **change)) is None  # type: ignore[arg-type]


def test_empty_pack() -> None:
    pack = pack_of([])
    assert len(pack.blocks()) == 0
    assert lookup.find(pack, query(make_block(1))) is None


def test_written_file(tmp_path: Path) -> None:
    journal = read_journal(write_journal(tmp_path / "j", make_blocks(*range(30))))
    old = os.umask(0)
    try:
        written = write_pack(tmp_path, FINGERPRINT, TEXT, [journal.blocks], seed=5)
    finally:
        os.umask(old)
    content = written.path.read_bytes()
    assert written.path.name == f"{hashlib.sha256(content).hexdigest()}.pack"
    assert stat.S_IMODE(written.path.stat().st_mode) == 0o644
    assert written.size == len(content)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["j", written.path.name])
    assert check_pack(written.sha256, written.path).good
    again = write_pack(tmp_path, FINGERPRINT, TEXT, [journal.blocks], seed=5)
    assert again.sha256 == written.sha256  # same blocks, same seed, same file
    other = write_pack(tmp_path, FINGERPRINT, TEXT, [journal.blocks])
    assert other.sha256 != written.sha256
    assert Pack.open(other.path).header.seed != Pack.open(written.path).header.seed == 5


def test_several_sources_become_one_pack(tmp_path: Path) -> None:
    first = write_pack(tmp_path, FINGERPRINT, TEXT, [table_of(make_blocks(*range(40)))])
    parts = [Pack.open(first.path).blocks(), table_of(make_blocks(*range(40, 60)))]
    written = write_pack(tmp_path, FINGERPRINT, TEXT, parts, seed=1)
    whole = write_pack(tmp_path, FINGERPRINT, TEXT, [table_of(make_blocks(*range(60)))], seed=1)
    assert written.sha256 == whole.sha256


def test_full_disk_leaves_nothing(tmp_path: Path) -> None:
    def full(point: str) -> None:
        if point == "pack-written":
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_pack(tmp_path, FINGERPRINT, TEXT, [table_of(make_blocks(1))], reached=full)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("offset", "form", "value", "reason"),
    [
        (0, "<Q", 0, "magic"),
        (8, "<I", 1, "version"),
        (8, "<I", 3, "version"),
        (48, "<I", 14, "page-bits"),
        (52, "<I", 3961, "bounds"),
        (56, "<Q", 1 << 62, "truncated"),
        (56, "<Q", 4096, "bounds"),
        (64, "<Q", 1 << 63, "bounds"),
        (64, "<Q", 29, "bounds"),
        (72, "<Q", 0, "bounds"),
        (72, "<Q", 2**64 - 1, "bounds"),
        (80, "<Q", 2**60, "bounds"),
        (88, "<Q", 0, "bounds"),
        (88, "<Q", 2**64 - 16, "bounds"),
        (96, "<Q", 0, "bounds"),
        (104, "<Q", 2**63, "bounds"),
        (104, "<Q", 1, "bounds"),
    ],
)
def test_hostile_headers(offset: int, form: str, value: int, reason: str) -> None:
    pieces = PackPieces.plan(FINGERPRINT, TEXT, [table_of(make_blocks(*range(30)))])
    content = bytearray(b"".join(pieces.chunks()))
    struct.pack_into(form, content, offset, value)
    content[: bf.HEADER_SIZE] = bf.seal_header(content[: bf.HEADER_SIZE])
    with pytest.raises(FormatError) as caught:
        Pack(memoryview(bytes(content)))
    assert caught.value.reason == reason


def test_refuses_files_that_others_could_have_written(tmp_path: Path) -> None:
    written = write_pack(tmp_path, FINGERPRINT, TEXT, [table_of(make_blocks(1))])
    for mode in (0o664, 0o646):
        written.path.chmod(mode)
        with pytest.raises(FormatError) as caught:
            Pack.open(written.path)
        assert caught.value.reason == "writable"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_refuses_files_of_other_users(tmp_path: Path) -> None:
    written = write_pack(tmp_path, FINGERPRINT, TEXT, [table_of(make_blocks(1))])
    os.chown(written.path, 65534, 65534)
    with pytest.raises(FormatError) as caught:
        Pack.open(written.path)
    assert caught.value.reason == "owner"
