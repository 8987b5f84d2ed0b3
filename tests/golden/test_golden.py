# SPDX-License-Identifier: GPL-2.0-or-later
"""The golden files of this format version mean the same, those of earlier ones are recognised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import make_golden
import numpy as np
import pytest

from bench.reference import lookup
from bench.reference.lookup import Query
from sysqcache.base.errors import FormatError
from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import BlockTable
from sysqcache.formats.journal import outdated_blocks, parse_journal, read_journal
from sysqcache.store import key
from sysqcache.store.pack import Pack, outdated_header
from sysqcache.store.verify import check_pack, unfindable

HERE = Path(__file__).parent
EXPECTED: dict[str, Any] = json.loads((HERE / "v2.expected.json").read_text())
MOVING: dict[str, Any] = json.loads((HERE / "v2-moving.expected.json").read_text())
OLD: dict[str, Any] = json.loads((HERE / "v1.expected.json").read_text())


def content(name: str) -> memoryview:
    # not opened as a store's file: a checkout may be writable for a group
    return memoryview((HERE / name).read_bytes())


def private(name: str, folder: Path) -> Path:
    """A copy with the mode that the store and the engine give their files."""
    copy = folder / name
    shutil.copyfile(HERE / name, copy)
    copy.chmod(0o600)
    return copy


def test_journal() -> None:
    journal = parse_journal(content("v2.journal"))
    assert journal.header.fingerprint.hex() == EXPECTED["fingerprint"]
    assert journal.header.text == EXPECTED["text"]
    assert (journal.header.start_time, journal.header.pid) == (1_700_000_000 * 10**9, 4242)
    counts = {
        "damaged": journal.damaged,
        "skipped": journal.skipped,
        "tail_bytes": journal.tail_bytes,
    }
    assert counts == EXPECTED["journal"]
    assert journal.ram_map.tolist() == [
        (0, 0, 0x80000000),
        (0x80000000, 0x100000000, 0x40000000),
    ]
    for row, block in enumerate(EXPECTED["blocks"]):
        head = journal.blocks.headers[row]
        for name in ("flags", "cflags", "page_offset", "guest_size", "code_size", "search_size"):
            assert int(head[name]) == block[name], (row, name)
        assert f"{int(head['cs_base']):x}" == block["cs_base"]
        assert journal.blocks.guest_bytes(row)[:16].hex() == block["guest_head"]
    assert journal.records["vcpu"].tolist() == [0] * 8 + [3, 0, 0]


def test_pack() -> None:
    pack = Pack(content("v2.pack"))
    assert pack.header.fingerprint.hex() == EXPECTED["fingerprint"]
    assert pack.header.text == EXPECTED["text"]
    assert f"{pack.header.seed:016x}" == EXPECTED["seed"]
    table = pack.blocks()
    assert table.offsets.tolist() == [b["pack_offset"] for b in EXPECTED["blocks"]]
    assert table.good_checksums().all()
    assert pack.holds_all_of(table)
    assert unfindable(pack, table) == 0
    hashes = key.index_hashes(table, pack.header.seed).tolist()
    assert [f"{value:016x}" for value in hashes] == [b["hash"] for b in EXPECTED["blocks"]]


@pytest.mark.parametrize("row", range(len(EXPECTED["blocks"])))
def test_lookup(row: int) -> None:
    pack = Pack(content("v2.pack"))
    block = EXPECTED["blocks"][row]
    found = lookup.find(
        pack,
        Query(
            cs_base=int(block["cs_base"], 16),
            flags=block["flags"],
            cflags=block["cflags"],
            page_offset=block["page_offset"],
            guest=bytes(pack.blocks().guest_bytes(row)),
        ),
    )
    assert found == block["pack_offset"]


@pytest.mark.parametrize(
    ("guest", "page_offset", "one", "several"),
    [
        (b"anywhere", 0x10, 0, 0),
        (b"one vCPU", 0x10, 1, None),
        (b"several!", 0x10, None, 2),
        (b"lock add", 0x10, 3, 4),
        (b"nything else", 0x18, 5, 5),
        (b"0123456789", 0xFFA, 6, 6),
    ],
)
def test_blocks_for_one_vcpu_and_for_several(
    guest: bytes, page_offset: int, one: int | None, several: int | None
) -> None:
    pack = Pack(content("v2-contexts.pack"))
    offsets = pack.blocks().offsets.tolist()
    for cflags, row in ((0xFF020000, one), (0xFF028000, several)):
        query = Query(0, 0x0040C0B3, cflags, page_offset, guest)
        assert lookup.find(pack, query) == (None if row is None else offsets[row]), hex(cflags)


def test_journal_with_contexts() -> None:
    journal = parse_journal(content("v2-contexts.journal"))
    assert (journal.damaged, journal.skipped, journal.tail_bytes) == (0, 0, 0)
    assert journal.blocks.any_context().tolist() == [True, *[False] * 4, True, True]
    pack = Pack(content("v2-contexts.pack"))
    assert unfindable(pack, pack.blocks()) == 0


def moved(block: dict[str, Any]) -> bytes:
    """The block's guest code, loaded elsewhere: each immediate is another one of its kind."""
    guest = bytearray.fromhex(block["guest"])
    for place, _ in block["imms"]:
        at = place & ~bf.IMM_RELATIVE
        value = 0x0C000000 if place & bf.IMM_RELATIVE else 0x92345678
        guest[at : at + 4] = value.to_bytes(4, "little")
    return bytes(guest)


def find_guest(pack: Pack, guest: bytes) -> int | None:
    return lookup.find(pack, Query(0, 0, 0, 0x10, guest))


def test_moving_immediates() -> None:
    journal = parse_journal(content("v2-moving.journal"))
    assert journal.damaged == len(MOVING["refused"])
    pack = Pack(content("v2-moving.pack"))
    assert unfindable(pack, pack.blocks()) == 0
    for row, block in enumerate(MOVING["blocks"]):
        assert journal.blocks.guest_bytes(row).hex() == block["guest"]
        assert journal.blocks.imms(row).tolist() == [tuple(imm) for imm in block["imms"]]
        assert find_guest(pack, bytes.fromhex(block["guest"])) == block["pack_offset"]
        assert find_guest(pack, moved(block)) == block["pack_offset"], block["name"]


def test_immediates_that_the_engine_would_look_at() -> None:
    pack = Pack(content("v2-moving.pack"))
    guest = bytearray.fromhex(MOVING["blocks"][0]["guest"])
    for value in (0, 0x7FFFFFFF, 0xFF000000, 0xFFFFFFFF):
        guest[9:13] = value.to_bytes(4, "little")
        assert find_guest(pack, bytes(guest)) is None


def test_blocks_that_readers_refuse() -> None:
    pack = Pack(content("v2-refused.pack"))
    assert pack.header.block_count == len(MOVING["refused"])
    assert len(pack.blocks()) == 0
    for block in MOVING["refused"]:
        for page_offset in (0x10, 0xFF0):
            query = Query(0, 0, 0, page_offset, bytes.fromhex(block["guest"]))
            assert lookup.find(pack, query) is None, block["name"]


@pytest.mark.parametrize("name", make_golden.FILES)
def test_writers_still_write_version_2(name: str) -> None:
    assert make_golden.FILES[name]() == (HERE / name).read_bytes()


@pytest.mark.parametrize("name", ["", "-contexts", "-moving", "-refused"])
def test_indexes_tell_what_a_key_has_besides_the_prefix(name: str) -> None:
    before, pack = Pack(content(f"v2{name}.pack")), Pack(content(f"v2-told{name}.pack"))
    assert pack.header == before.header
    others = [field.name for field in bf.INDEX_ENTRY.fields if field.name != "page_offset"]
    assert pack.index[others].tolist() == before.index[others].tolist()
    told = pack.index["page_offset"][pack.index["position"] > 0]
    positions = pack.index["position"][pack.index["position"] > 0].astype(np.int64)
    table = BlockTable.at(pack.buffer, positions * bf.ALIGN)
    assert (told & 0xFFF).tolist() == table.headers["page_offset"].tolist()
    assert (told & bf.INDEX_LONG > 0).tolist() == key.long_keys(table).tolist()
    assert (told & bf.INDEX_TOLD > 0).all()


@pytest.mark.parametrize("name", ["v1.journal", "v1-contexts.journal"])
def test_journals_of_version_1(name: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="format version 1, and version 2 is read") as caught:
        parse_journal(content(name))
    assert caught.value.reason == "version"
    path = private(name, tmp_path)
    with pytest.raises(FormatError, match="version 1"):
        read_journal(path)
    assert outdated_blocks(path) == {"v1.journal": 12, "v1-contexts.journal": 7}[name]


@pytest.mark.parametrize("name", ["v1.pack", "v1-flags.pack"])
def test_packs_of_version_1(name: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="format version 1, and version 2 is read") as caught:
        Pack(content(name))
    assert caught.value.reason == "version"
    path = private(name, tmp_path)
    header = outdated_header(path)
    assert header is not None
    assert header.fingerprint.hex() == OLD["fingerprint"]
    assert (header.text, header.block_count) == (OLD["text"], len(OLD["blocks"]))
    assert "version 1" in check_pack("0" * 64, path).problem


@pytest.mark.parametrize("name", ["v1.pack", "v1.journal", "v2.pack", "v2.journal"])
def test_only_whole_headers_of_version_1_are_outdated(name: str, tmp_path: Path) -> None:
    path = private(name, tmp_path)
    old = name.startswith("v1")
    whole = path.read_bytes()
    for offset, value in ((8, 2 if old else 1), (20, 0xFF), (0, 0), (4095, whole[4095] ^ 1)):
        damaged = bytearray(whole)
        damaged[offset] = value
        path.write_bytes(damaged)
        assert outdated_header(path) is None
        assert outdated_blocks(path) is None
    path.write_bytes(whole[:4095])
    assert outdated_header(path) is None
    assert outdated_blocks(path) is None
