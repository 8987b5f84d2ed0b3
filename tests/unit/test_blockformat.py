# SPDX-License-Identifier: GPL-2.0-or-later
"""The byte tables: consistent in themselves, shown in the docs, used by the code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from bench.reference.journalwriter import BlockData, journal_header, record_header
from sysqcache.formats import block as bf

ENGINE = Path(__file__).parents[2] / "engine" / "src" / "accel" / "tcg"
DOCS = Path(__file__).parents[2] / "docs" / "formats.md"


@pytest.mark.parametrize("layout", bf.LAYOUTS, ids=lambda layout: layout.name)
def test_fields_follow_each_other_without_overlap(layout: bf.Layout) -> None:
    end = 0
    for field in layout.fields:
        assert field.offset == end, field.name
        end += layout.dtype[field.name].itemsize
    assert end == layout.size == layout.dtype.itemsize


@pytest.mark.parametrize("layout", bf.LAYOUTS, ids=lambda layout: layout.name)
def test_docs_show_the_table(layout: bf.Layout) -> None:
    assert layout.markdown() in DOCS.read_text()


SHARED = (
    "MAX_PACKS",
    "MAX_WALK",
    "MAX_CANDIDATES",
    "MAX_IMMS",
    "VERSION",
    "INDEX_TOLD",
    "INDEX_LONG",
)


@pytest.mark.parametrize("name", SHARED)
def test_the_engine_has_the_same_numbers(name: str) -> None:
    headers = [ENGINE / f"tb-cache-{one}.h" for one in ("format", "find")]
    text = "".join(header.read_text() for header in headers)
    [number] = re.findall(rf"^#define TB_CACHE_{name} +(\w+?)u?\b", text, re.MULTILINE)
    assert int(number, 0) == getattr(bf, name)


def test_docs_state_the_limits() -> None:
    words = " ".join(DOCS.read_text().split())
    assert f"more than {bf.MAX_BLOCK:,} bytes without padding" in words
    assert f"moving immediates on two pages, more than {bf.MAX_IMMS} of them" in words
    assert f"{bf.MAX_SAME_KEY} are written" in words
    assert f"after {bf.MAX_WALK:,} entries of the index and after {bf.MAX_CANDIDATES}" in words
    assert f"Journals and packs have format version {bf.VERSION};" in words


def test_pack_and_unpack_are_inverse() -> None:
    data = bf.RECORD.pack(magic=1, total_size=2, type=3, vcpu=4, pc=2**63, checksum=9)
    record = bf.RECORD.unpack(data)
    assert [int(record[n]) for n in ("magic", "total_size", "type", "vcpu", "pc", "checksum")] == [
        1, 2, 3, 4, 2**63, 9,
    ]  # fmt: skip


def test_writer_struct_agrees_with_the_table() -> None:
    block = BlockData(
        guest=b"\x90" * 5, code=b"\xc3" * 7, search=b"\1\2\3", cs_base=1 << 40, flags=2, cflags=3,
        pc=0x12345FFE, icount=4, block_flags=1,
    ).encode()  # fmt: skip
    head = bf.BLOCK.unpack(block)
    assert int(head["checksum"]) == bf.checksum(block[8 : 48 + 5 + 7 + 3])
    names = ("cs_base", "flags", "cflags", "page_offset", "guest_size", "icount")
    assert [int(head[n]) for n in names] == [1 << 40, 2, 3, 0xFFE, 5, 4]
    rest = ("search_size", "code_size", "block_flags")
    assert [int(head[n]) for n in rest] == [3, 7, 1]
    assert head["jmp_reset_offset"].tolist() == head["jmp_insn_offset"].tolist() == [0xFFFF] * 2
    assert len(block) == bf.padded(48 + 15) == 64
    record = bf.RECORD.unpack(record_header(1, 100, 2, (3, 4, 5)))
    assert [int(record[f.name]) for f in bf.RECORD.fields][:8] == [
        bf.RECORD_MAGIC, 48 + 112, 1, 2, 100, 3, 4, 5,
    ]  # fmt: skip


def test_headers_are_sealed_in_their_last_eight_bytes() -> None:
    header = journal_header(b"\7" * 32, "a=b", start_time=5, pid=6)
    assert len(header) == bf.HEADER_SIZE
    assert int.from_bytes(header[-8:], "little") == bf.checksum(header[:-8])


def test_checksum_is_xxh3_64_with_seed_0() -> None:
    assert bf.checksum(b"") == 0x2D06800538D394C2  # the published value for no input
    assert np.dtype("<u8").itemsize == 8
