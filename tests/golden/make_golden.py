# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the golden files of format version 1.

    python tests/golden/make_golden.py DIRECTORY

The committed files are never changed: a new format version gets files of its own. The
engine's tests read the same files. ``v1.expected.json`` says what a reader must find.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from sysqcache.formats.journal import parse_journal
from sysqcache.formats.journalwriter import BlockData, journal_header, ram_map_record, record_header
from sysqcache.store import key
from sysqcache.store.writer import PackPieces

TEXT = "arch=x86_64\ntarget=x86_64-softmmu\ngolden=v1\n"
FINGERPRINT = hashlib.sha256(TEXT.encode()).digest()


def _block(guest: bytes, code: bytes, pc: int, **other: Any) -> BlockData:
    values = {"flags": 0x0040C0B3, "cflags": 0xFF000200, **other}
    return BlockData(guest=guest, code=code, pc=pc, **values)


def blocks() -> list[BlockData]:
    """Every kind of block once: short, at a page's end, on two pages, largest, twins."""
    two_pages: dict[str, Any] = {"block_flags": 1, "ram0": 0xFF8, "ram1": 0x7000}
    largest = bytes(i * 7 & 255 for i in range(4096))
    return [
        _block(b"\x90\xc3", b"\x0f\x0b\xc3", 0xFFF0, icount=2),
        _block(b"abcdefgh", bytes(range(64)), 0x1010, icount=3),
        _block(b"abcdefghijkl", bytes(range(80)), 0x5010, icount=4),
        _block(b"ab", b"\xc3" * 30, 0x1010),
        _block(b"abcdefgh", b"\xc3" * 31, 0x1010, cs_base=0x10000),
        _block(b"abcdefgh", b"\xc3" * 33, 0x1010, flags=0),
        _block(b"0123456789", b"\xc3" * 47, 0x2FF8, **two_pages),
        _block(b"0123456789", b"\xc3" * 48, 0x2FFA, **two_pages),
        _block(b"x", b"\xc3" * 49, 0xFFFF_FFFF_8100_0FFF, vcpu=3),
        _block(largest, b"\xc3" * 20000, 0x4000, search=bytes(2000), icount=511),
        _block(bytes(16), b"\xc3", 0, flags=2**32 - 1, cflags=2**32 - 1, cs_base=2**64 - 1),
    ]


def context_blocks() -> list[BlockData]:
    """For any number of vCPUs, and for the one or the other alone."""
    parallel, plain, any_context = 0xFF028000, 0xFF020000, {"block_flags": 4}
    crossing: dict[str, Any] = {"block_flags": 5, "ram0": 0xFF8, "ram1": 0x7000}
    return [
        _block(b"anywhere", b"\xc3" * 20, 0x1010, cflags=plain, **any_context),
        _block(b"one vCPU", b"\xc3" * 21, 0x1010, cflags=plain),
        _block(b"several!", b"\xc3" * 22, 0x1010, cflags=parallel),
        _block(b"lock add", b"\xc3" * 23, 0x1010, cflags=plain),
        _block(b"lock add", b"\xc3" * 24, 0x1010, cflags=parallel, vcpu=1),
        _block(b"ny", b"\xc3" * 25, 0x1018, cflags=plain, **any_context),
        _block(b"0123456789", b"\xc3" * 26, 0x2FFA, cflags=plain, **crossing),
    ]


def journal() -> bytes:
    """All blocks; a RAM map, an unknown record, a damaged block, a torn tail between them."""
    records = [block.record() for block in blocks()]
    damaged = bytearray(BlockData(guest=b"damaged!", code=b"\xc3" * 9).record())
    damaged[48 + 48 + 3] ^= 0x80  # a guest byte
    torn = BlockData(guest=b"torn", code=b"\xc3" * 100).record()[:-32]
    return b"".join(
        [
            journal_header(FINGERPRINT, TEXT, start_time=1_700_000_000 * 10**9, pid=4242),
            ram_map_record([(0, 0, 0x80000000), (0x80000000, 0x100000000, 0x40000000)]),
            *records[:3],
            record_header(0x7777, 20) + bytes(32),
            bytes(damaged),
            *records[3:],
            torn,
        ]
    )


def context_journal() -> bytes:
    """The blocks of :func:`context_blocks`, as the engine writes them."""
    header = journal_header(FINGERPRINT, TEXT, start_time=1_790_000_000 * 10**9, pid=4243)
    return header + b"".join(block.record() for block in context_blocks())


def context_pack() -> bytes:
    """The pack of that journal."""
    table = parse_journal(memoryview(context_journal())).blocks
    return b"".join(PackPieces.plan(FINGERPRINT, TEXT, [table]).chunks())


def pack() -> bytes:
    """The pack of the journal's blocks."""
    table = parse_journal(memoryview(journal())).blocks
    return b"".join(PackPieces.plan(FINGERPRINT, TEXT, [table]).chunks())


def expected() -> bytes:
    """What a reader must find, as JSON."""
    table = parse_journal(memoryview(journal())).blocks
    offsets = PackPieces.plan(FINGERPRINT, TEXT, [table]).offsets
    hashes = key.index_hashes(table)
    found = [
        {
            "pack_offset": int(offsets[row]),
            "hash": f"{int(hashes[row]):016x}",
            "cs_base": f"{block.cs_base:x}",
            "flags": block.flags,
            "cflags": block.cflags,
            "page_offset": block.pc & 4095,
            "guest_size": len(block.guest),
            "guest_head": block.guest[:16].hex(),
            "code_size": len(block.code),
            "search_size": len(block.search),
            "checksum": f"{int(table.headers['checksum'][row]):016x}",
        }
        for row, block in enumerate(blocks())
    ]
    values = {
        "fingerprint": FINGERPRINT.hex(),
        "text": TEXT,
        "journal": {"damaged": 1, "skipped": 1, "tail_bytes": 48 + 160 - 32},
        "blocks": found,
    }
    return json.dumps(values, indent=1).encode() + b"\n"


# v1.pack is of the time before a header told the flags of its blocks,
# v1-flags.pack of the time before blocks served any number of vCPUs
FILES = {
    "v1.journal": journal,
    "v1-flags.pack": pack,
    "v1.expected.json": expected,
    "v1-contexts.journal": context_journal,
    "v1-contexts.pack": context_pack,
}


def main() -> None:
    """Write the files into the directory that the command line names."""
    for name, make in FILES.items():
        (Path(sys.argv[1]) / name).write_bytes(make())


if __name__ == "__main__":
    main()
