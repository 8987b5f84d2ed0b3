# SPDX-License-Identifier: GPL-2.0-or-later
"""The golden files of every format version can still be read, and mean the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import make_golden
import pytest

from sysqcache.formats.journal import parse_journal
from sysqcache.store.pack import Pack, Query
from sysqcache.store.verify import unfindable

HERE = Path(__file__).parent
PACKS = ("v1.pack", "v1-flags.pack")
EXPECTED: dict[str, Any] = json.loads((HERE / "v1.expected.json").read_text())


def content(name: str) -> memoryview:
    # not opened as a store's file: a checkout may be writable for a group
    return memoryview((HERE / name).read_bytes())


def test_journal() -> None:
    journal = parse_journal(content("v1.journal"))
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


@pytest.mark.parametrize("name", PACKS)
def test_pack(name: str) -> None:
    pack = Pack(content(name))
    assert pack.header.fingerprint.hex() == EXPECTED["fingerprint"]
    assert pack.header.text == EXPECTED["text"]
    table = pack.blocks()
    assert table.offsets.tolist() == [b["pack_offset"] for b in EXPECTED["blocks"]]
    assert table.good_checksums().all()
    assert unfindable(pack, table) == 0


@pytest.mark.parametrize("name", PACKS)
@pytest.mark.parametrize("row", range(len(EXPECTED["blocks"])))
def test_lookup(name: str, row: int) -> None:
    pack = Pack(content(name))
    block = EXPECTED["blocks"][row]
    found = pack.find(
        Query(
            cs_base=int(block["cs_base"], 16),
            flags=block["flags"],
            cflags=block["cflags"],
            page_offset=block["page_offset"],
            guest=bytes(pack.blocks().guest_bytes(row)),
        )
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
    pack = Pack(content("v1-contexts.pack"))
    offsets = pack.blocks().offsets.tolist()
    for cflags, row in ((0xFF020000, one), (0xFF028000, several)):
        query = Query(0, 0x0040C0B3, cflags, page_offset, guest)
        assert pack.find(query) == (None if row is None else offsets[row]), hex(cflags)


def test_journal_with_contexts() -> None:
    journal = parse_journal(content("v1-contexts.journal"))
    assert (journal.damaged, journal.skipped, journal.tail_bytes) == (0, 0, 0)
    assert journal.blocks.any_context().tolist() == [True, *[False] * 4, True, True]
    assert unfindable(Pack(content("v1-contexts.pack")), journal.blocks) == 0


@pytest.mark.parametrize("name", make_golden.FILES)
def test_writers_still_write_version_1(name: str) -> None:
    assert make_golden.FILES[name]() == (HERE / name).read_bytes()
