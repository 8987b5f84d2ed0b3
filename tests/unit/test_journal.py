# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading journals: whole records, torn tails, damage, hostile sizes."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import pytest
from storehelp import FINGERPRINT, TEXT, make_block, make_blocks, write_journal

from bench.reference.journalwriter import (
    adopted_record,
    journal_header,
    pack_record,
    ram_map_record,
    record_header,
)
from sysqcache.base.errors import FormatError
from sysqcache.formats import block as bf
from sysqcache.formats.journal import Journal, parse_journal, read_journal

SIZES = (("<H", 26), ("<H", 30), ("<I", 32))
HEADER = journal_header(FINGERPRINT, TEXT, start_time=1, pid=7)


def parse(*parts: bytes) -> Journal:
    return parse_journal(memoryview(HEADER + b"".join(parts)))


def test_reads_blocks_in_order(tmp_path: Path) -> None:
    blocks = make_blocks(*range(50))
    journal = read_journal(write_journal(tmp_path / "j", blocks))
    assert journal.header.fingerprint == FINGERPRINT
    assert (journal.header.text, journal.header.pid) == (TEXT, 7)
    table = journal.blocks
    assert [bytes(table.guest_bytes(i)) for i in range(len(table))] == [b.guest for b in blocks]
    assert journal.records["pc"].tolist() == [b.pc for b in blocks]
    assert table.sizes().tolist() == [
        48 + len(b.guest) + len(b.code) + len(b.search) for b in blocks
    ]
    assert (journal.damaged, journal.skipped, journal.tail_bytes) == (0, 0, 0)


def test_header_alone_is_an_empty_journal() -> None:
    journal = parse()
    assert len(journal.blocks) == len(journal.ram_map) == 0
    assert journal.tail_bytes == 0


def test_ram_map_and_unknown_records() -> None:
    odd = record_header(77, 5) + bytes(16)
    ranges = [(0, 0, 1 << 20), (1 << 20, 1 << 32, 4096)]
    journal = parse(ram_map_record(ranges), odd, make_block(1).record())
    assert journal.ram_map.tolist() == ranges
    assert (journal.skipped, len(journal.blocks)) == (1, 1)


def test_packs_and_first_uses() -> None:
    name = "ab" * 32
    journal = parse(
        pack_record(0, name),
        adopted_record([(256, 0, 0, 0x1000), (300, 1, 0, 0x2000)]),  # 1 is not known yet
        make_block(1).record(),
        pack_record(1, "x" * 100),
        pack_record(0, "a number has one name"),
        adopted_record([(0xFFFFFFFF, 1, 0xFFFF, bf.NO_RAM), (260, 2, 0, 0x3000)]),
    )
    assert journal.packs == {0: name, 1: "x" * 71}
    assert journal.adopted.dtype == bf.ADOPTED.dtype
    assert journal.adopted.tolist() == [
        (256, 0, 0, 0x1000),
        (300, 1, 0, 0x2000),
        (0xFFFFFFFF, 1, 0xFFFF, bf.NO_RAM),
    ]
    assert (journal.skipped, journal.damaged, len(journal.blocks)) == (0, 0, 1)


def test_pack_numbers_that_no_use_can_have() -> None:
    journal = parse(pack_record(0xFFFFFFFF, "far"), adopted_record([(1, 0xFFFF, 0, 0)]))
    assert journal.packs == {0xFFFFFFFF: "far"}
    assert len(journal.adopted) == 0


def test_damaged_block_is_skipped_and_counted() -> None:
    bad = bytearray(make_block(1).record())
    bad[48 + 48] ^= 1
    journal = parse(make_block(0).record(), bytes(bad), make_block(2).record())
    assert journal.damaged == 1
    assert [bytes(journal.blocks.guest_bytes(i)) for i in range(2)] == [
        make_block(0).guest,
        make_block(2).guest,
    ]


def test_damaged_record_header_ends_the_journal() -> None:
    bad = bytearray(make_block(1).record())
    bad[16] ^= 1
    rest = bytes(bad) + make_block(2).record()
    journal = parse(make_block(0).record(), rest)
    assert (len(journal.blocks), journal.tail_bytes, journal.damaged) == (1, len(rest), 0)


@pytest.mark.parametrize("total", [0, 16, 47, 49, 0xFFFFFFF0, 1 << 20])
def test_impossible_record_sizes_end_the_journal(total: int) -> None:
    head = bytearray(record_header(bf.RECORD_BLOCK, 64))
    struct.pack_into("<I", head, 4, total)
    struct.pack_into("<Q", head, 40, bf.checksum(head[:40]))
    journal = parse(make_block(0).record(), bytes(head), bytes(64))
    assert len(journal.blocks) == 1
    assert journal.tail_bytes == 48 + 64


def test_jumps_inside_of_the_code_are_fine() -> None:
    record = bytearray(make_block(0).record())
    struct.pack_into("<4H", record, 48 + 36, 40, 0xFFFF, 36, 0xFFFF)
    body = 48 + sum(struct.unpack_from(f, record, 48 + o)[0] for f, o in SIZES)
    struct.pack_into("<Q", record, 48, bf.checksum(record[48 + 8 : 48 + body]))
    assert len(parse(bytes(record)).blocks) == 1


@pytest.mark.parametrize("payload", [0, 1, 47, 48, 63, 65, 0xFFFFFFFF])
def test_payload_sizes_that_do_not_fit_are_damage(payload: int) -> None:
    record = bytearray(make_block(0).record())
    struct.pack_into("<I", record, 12, payload)
    struct.pack_into("<Q", record, 40, bf.checksum(record[:40]))
    journal = parse(bytes(record), make_block(1).record())
    assert (len(journal.blocks), journal.damaged) == (1, 1)


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (24, "<H", 4096),  # page_offset
        (26, "<H", 0),  # guest_size
        (26, "<H", 4097),
        (30, "<H", 0xFFFF),  # search_size
        (32, "<I", 0),  # code_size
        (32, "<I", 0xFFFFFFFF),
        (28, "<H", 0),  # icount
        (28, "<H", 513),
        (36, "<I", 0xFFFF0029),  # the first jump ends behind the code
        (40, "<I", 0xFFFF0001),
        (44, "<I", 1),  # block_flags
        (44, "<I", 2),
        (44, "<I", 16),
    ],
)
def test_impossible_block_fields_are_damage(offset: int, form: str, value: int) -> None:
    record = bytearray(make_block(0).record())
    if offset == 40:
        struct.pack_into("<I", record, 48 + 36, 0xFFFF0010)  # a jump, to be misplaced
    struct.pack_into(form, record, 48 + offset, value)
    body = 48 + sum(struct.unpack_from(f, record, 48 + o)[0] for f, o in SIZES)
    struct.pack_into("<Q", record, 48, bf.checksum(record[48 + 8 : 48 + body]))
    journal = parse(bytes(record), make_block(1).record())
    assert (len(journal.blocks), journal.damaged) == (1, 1)


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, b"SYSQPACK", "magic"),
        (8, b"\1\0\0\0", "version"),
        (8, b"\3\0\0\0", "version"),
        (100, b"\xff", "header-checksum"),
    ],
)
def test_foreign_headers(offset: int, value: bytes, reason: str) -> None:
    header = bytearray(HEADER)
    header[offset : offset + len(value)] = value
    with pytest.raises(FormatError) as caught:
        parse_journal(memoryview(bytes(header)))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [(12, 4112, "bounds"), (48, 14, "page-bits"), (52, 4017, "bounds")],
)
def test_sealed_headers_with_other_values(offset: int, value: int, reason: str) -> None:
    header = bytearray(HEADER)
    struct.pack_into("<I", header, offset, value)
    with pytest.raises(FormatError) as caught:
        parse_journal(memoryview(bf.seal_header(header)))
    assert caught.value.reason == reason


def test_refuses_files_of_others(tmp_path: Path) -> None:
    path = write_journal(tmp_path / "j", make_blocks(1))
    path.chmod(0o620)
    with pytest.raises(FormatError) as caught:
        read_journal(path)
    assert caught.value.reason == "writable"
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(FormatError) as caught:
        read_journal(link)
    assert caught.value.reason == "unreadable"
    with pytest.raises(FormatError) as caught:
        read_journal(tmp_path)
    assert caught.value.reason == "unreadable"


def test_empty_file_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.touch(mode=0o600)
    with pytest.raises(FormatError) as caught:
        read_journal(path)
    assert caught.value.reason == "truncated"


def test_a_block_for_any_context_has_no_context() -> None:
    good, bad = (
        dataclasses.replace(make_block(0), cflags=cflags, block_flags=bf.BLOCK_ANY_CONTEXT)
        for cflags in (0, bf.CF_PARALLEL)
    )
    journal = parse(good.record(), bad.record())
    assert (len(journal.blocks), journal.damaged) == (1, 1)
