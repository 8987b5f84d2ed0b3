# SPDX-License-Identifier: GPL-2.0-or-later
"""Round trips of random blocks, cuts at every byte, flips, hostile sealed headers."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.reference.journalwriter import BlockData, journal_header, record_header
from bench.reference.lookup import Query, find
from sysqcache.base.errors import FormatError
from sysqcache.formats import block as bf
from sysqcache.formats.journal import parse_journal
from sysqcache.store import dedupe, key
from sysqcache.store.pack import Pack
from sysqcache.store.verify import unfindable
from sysqcache.store.writer import PackPieces

FINGERPRINT = b"\x33" * 32
HEADER = journal_header(FINGERPRINT, "arch=x86_64\n")

# few values for the key, so that blocks share hashes, prefixes and slots
BLOCKS = st.builds(
    BlockData,
    guest=st.one_of(
        st.binary(min_size=1, max_size=20),
        st.integers(1, 40).map(lambda n: (b"same prefix" * 4)[:n]),
    ),
    code=st.binary(min_size=1, max_size=50),
    search=st.binary(min_size=1, max_size=20),
    cs_base=st.sampled_from([0, 0xFFFF0, 2**64 - 1]),
    flags=st.sampled_from([0, 1, 2**32 - 1]),
    cflags=st.sampled_from([0, 0xFF000200]),
    pc=st.sampled_from([0, 1, 4088, 4089, 4095, 2**64 - 1]),
    icount=st.integers(1, 512),
)


def identity(block: BlockData) -> tuple[object, ...]:
    return (block.cs_base, block.flags, block.cflags, block.pc & 4095, block.guest)


def journal_of(blocks: list[BlockData]) -> bytes:
    return HEADER + b"".join(b.record() for b in blocks)


def pack_of(blocks: list[BlockData]) -> bytes:
    table = parse_journal(memoryview(journal_of(blocks))).blocks
    return b"".join(PackPieces.plan(FINGERPRINT, "t", [table]).chunks())


def lookup(pack: Pack, block: BlockData, more: bytes = b"") -> int | None:
    return find(
        pack, Query(block.cs_base, block.flags, block.cflags, block.pc & 4095, block.guest + more)
    )


@given(st.lists(BLOCKS, max_size=40))
@settings(max_examples=60, deadline=None)
def test_journal_to_pack_to_lookup(blocks: list[BlockData]) -> None:
    journal = parse_journal(memoryview(journal_of(blocks)))
    assert (len(journal.blocks), journal.damaged, journal.tail_bytes) == (len(blocks), 0, 0)

    parts = dedupe.split([], key.identities(journal.blocks))
    unique: dict[object, BlockData] = {}
    for block in blocks:
        unique.setdefault(identity(block), block)
    assert parts.fresh.sum() == len(unique)

    fresh = journal.blocks.select(parts.fresh)
    content = b"".join(PackPieces.plan(FINGERPRINT, "t", [fresh]).chunks())
    pack = Pack(memoryview(content))
    table = pack.blocks()
    assert len(table) == len(unique)
    assert unfindable(pack, table) == 0
    firsts = list(unique.values())
    assert [bytes(table.guest_bytes(i)) for i in range(len(table))] == [b.guest for b in firsts]
    for row, block in enumerate(firsts):
        assert lookup(pack, block) == table.offsets[row]
        found = lookup(pack, block, b"\xee more")
        assert found is not None
        assert bytes(content[found:]).startswith(firsts_encoding(firsts, table, found))


def firsts_encoding(blocks: list[BlockData], table: Any, offset: int) -> bytes:
    return blocks[int(np.flatnonzero(table.offsets == offset)[0])].encode()


@given(st.lists(BLOCKS, max_size=20), st.lists(BLOCKS, max_size=20))
@settings(max_examples=60, deadline=None)
def test_dedupe_equals_a_dictionary(kept: list[BlockData], recorded: list[BlockData]) -> None:
    kept = list({identity(b): b for b in kept}.values())
    keys = [
        key.identities(parse_journal(memoryview(journal_of(blocks))).blocks)
        for blocks in (kept, recorded)
    ]
    parts = dedupe.split([keys[0]], keys[1])
    known = {identity(b) for b in kept}
    seen = set(known)
    for block, fresh in zip(recorded, parts.fresh.tolist(), strict=True):
        assert fresh == (identity(block) not in seen)
        seen.add(identity(block))
    again = {identity(b) for b in recorded} & known
    assert {identity(kept[row]) for row in parts.again.tolist()} == again
    assert len(parts.again) == len(again)
    assert parts.known == sum(identity(b) in known for b in recorded)


SMALL = [
    BlockData(guest=b"12345678" * n, code=b"\xc3" * 11 * n, search=b"s" * n, pc=64 * n)
    for n in range(1, 5)
]


def test_journal_cut_at_every_byte() -> None:
    whole = journal_of(SMALL)
    ends = [len(journal_of(SMALL[:n])) for n in range(len(SMALL) + 1)]
    for size in range(len(whole) + 1):
        if size < bf.HEADER_SIZE:
            with pytest.raises(FormatError):
                parse_journal(memoryview(whole[:size]))
            continue
        journal = parse_journal(memoryview(whole[:size]))
        count = sum(end <= size for end in ends) - 1
        assert len(journal.blocks) == count
        assert journal.tail_bytes == size - ends[count]
        assert journal.damaged == 0


def test_pack_cut_at_every_byte() -> None:
    whole = pack_of(SMALL)
    for size in range(len(whole)):
        with pytest.raises(FormatError) as caught:
            Pack(memoryview(whole[:size]))
        assert caught.value.reason == "truncated"
    with pytest.raises(FormatError):
        Pack(memoryview(whole + b"\0"))


def test_journal_with_one_bit_flipped_anywhere() -> None:
    whole = journal_of(SMALL)
    rng = random.Random(1)
    for offset in range(len(whole)):
        content = bytearray(whole)
        content[offset] ^= 1 << rng.randrange(8)
        if offset < bf.HEADER_SIZE:
            with pytest.raises(FormatError):
                parse_journal(memoryview(bytes(content)))
            continue
        journal = parse_journal(memoryview(bytes(content)))
        found = {journal.blocks.guest_bytes(i).tobytes() for i in range(len(journal.blocks))}
        assert found <= {b.guest for b in SMALL}
        lost = len(SMALL) - len(journal.blocks)
        padding = lost == 0
        assert padding or journal.damaged == 1 or journal.tail_bytes > 0


def test_pack_with_one_bit_flipped_anywhere() -> None:
    whole = pack_of(SMALL)
    good = {b.guest for b in SMALL}
    rng = random.Random(2)
    for offset in range(len(whole)):
        content = bytearray(whole)
        content[offset] ^= 1 << rng.randrange(8)
        if offset < bf.HEADER_SIZE:
            with pytest.raises(FormatError):
                Pack(memoryview(bytes(content)))
            continue
        if offset % 7 and offset > bf.HEADER_SIZE + 600 and offset < len(whole) - 500:
            continue  # zero bytes between blocks and index: some of them will do
        pack = Pack(memoryview(bytes(content)))
        table = pack.blocks()
        intact = table.select(table.good_checksums())
        assert {bytes(intact.guest_bytes(i)) for i in range(len(intact))} <= good
        unfindable(pack, intact)
        for block in SMALL:
            lookup(pack, block)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_sealed_pack_headers_with_any_numbers(data: st.DataObject) -> None:
    content = bytearray(pack_of(SMALL))
    for field in data.draw(st.lists(st.sampled_from(bf.PACK_HEADER.fields[1:13]), min_size=1)):
        size = bf.PACK_HEADER.dtype[field.name].itemsize
        if size > 8:
            continue
        bits = 8 * size
        number = data.draw(
            st.one_of(st.integers(0, 2**bits - 1), st.integers(0, 20000), st.just(2**bits - 16))
        )
        content[field.offset : field.offset + size] = number.to_bytes(size, "little")
    content[: bf.HEADER_SIZE] = bf.seal_header(content[: bf.HEADER_SIZE])
    try:
        pack = Pack(memoryview(bytes(content)))
    except FormatError:
        return
    pack.blocks().good_checksums()
    for block in SMALL:
        lookup(pack, block)


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=22), st.integers(0, 21))
@settings(max_examples=100, deadline=None)
def test_any_index(entries: list[bytes], start: int) -> None:
    content = bytearray(pack_of(SMALL))
    index = Pack(memoryview(bytes(content))).header.index_offset
    for number, entry in enumerate(entries):
        at = index + 16 * ((start + number) % 22)
        content[at : at + 16] = entry
    pack = Pack(memoryview(bytes(content)))
    table = pack.blocks()
    table.good_checksums()
    for block in SMALL:
        found = lookup(pack, block)
        if found is not None:
            assert bf.HEADER_SIZE <= found < index


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 2, 3, 4, 5, 6, 65535]),
            st.one_of(st.integers(0, 300), st.integers(0, 2**32 - 1)),
            st.binary(max_size=200),
        ),
        max_size=8,
    )
)
@settings(max_examples=150, deadline=None)
def test_sealed_records_with_any_sizes(records: list[tuple[int, int, bytes]]) -> None:
    parts = [HEADER]
    for kind, payload_size, payload in records:
        head = bytearray(record_header(kind, len(payload)))
        struct.pack_into("<I", head, 12, payload_size)
        struct.pack_into("<Q", head, 40, bf.checksum(head[:40]))
        parts.append(bytes(head) + payload.ljust(bf.padded(len(payload)), b"\0"))
    journal = parse_journal(memoryview(b"".join(parts)))
    kinds = [kind for kind, _, _ in records]
    assert journal.tail_bytes == 0
    assert len(journal.blocks) + journal.damaged == kinds.count(bf.RECORD_BLOCK)
    assert journal.skipped == sum(kind not in bf.RECORDS_KNOWN for kind in kinds)


@given(st.binary(max_size=2000))
@settings(max_examples=150, deadline=None)
def test_any_bytes_behind_a_header(tail: bytes) -> None:
    journal = parse_journal(memoryview(HEADER + tail))
    assert journal.tail_bytes <= len(tail)


@given(st.binary(max_size=9000))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(FormatError):
        parse_journal(memoryview(content))
    with pytest.raises(FormatError):
        Pack(memoryview(content))
