# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the golden files of format version 2.

    PYTHONPATH=. python tests/golden/make_golden.py DIRECTORY

The committed files are never changed: a new format version gets files of its own. The
engine's tests read the same files. ``v2.expected.json`` says what a reader must find in
``v2.journal`` and ``v2.pack``, ``v2-moving.expected.json`` in those with moving immediates.

``v2.pack``, ``v2-contexts.pack``, ``v2-moving.pack`` and ``v2-refused.pack`` were written before
entries of the index told page offsets; the packs with *told* in their names hold the same blocks.

Files of version 1 were written by the last sysqcache that wrote it: ``v1.pack`` before
headers told the flags of their blocks, ``v1-flags.pack`` before blocks served any number
of vCPUs. ``v1-store.tar.zst`` is a whole store with a journal that waits, and
``v1-bundle.tar.zst`` an export of it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench.reference.journalwriter import BlockData, journal_header, ram_map_record, record_header
from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import BlockTable
from sysqcache.formats.journal import parse_journal
from sysqcache.store import key
from sysqcache.store.writer import PackPieces

TEXT = "arch=x86_64\ntarget=x86_64-softmmu\ngolden=v2\n"
FINGERPRINT = hashlib.sha256(TEXT.encode()).digest()
SEED = 0x0123456789ABCDEF
"""Of all golden packs; the store takes another one for each."""


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


FAR, NEAR, DISTANCE = 0xFFFFFFFF_81000000, 0x1000, 0x08000000
"""Immediates: the engine does not look at the first and, as a distance, the last."""


def moving_code(*values: int) -> bytes:
    """Guest code with 32-bit immediates at 9, 14, 19 and so on."""
    return b"12345678" + b"".join(b"\xb8" + (v & 0xFFFFFFFF).to_bytes(4, "little") for v in values)


def moving_blocks() -> dict[str, BlockData]:
    """Blocks with moving immediates, and others that the time of those brought."""
    code, distance = b"\xc3" * 40, bf.IMM_RELATIVE
    kernel: dict[str, Any] = {"pc": 0xFFFFFFFF_81000010, "code": code}
    return {
        "one": BlockData(guest=moving_code(FAR), imms=((9, 1),), **kernel),
        "twice in the host's code": BlockData(
            guest=moving_code(FAR, FAR), imms=((9, 4), (9, 20), (14, 36)), **kernel
        ),
        "distance": BlockData(
            guest=moving_code(NEAR, DISTANCE), imms=((14 | distance, 0),), **kernel
        ),
        "short key": BlockData(
            guest=b"\xb8" + moving_code(FAR)[9:] + b"9999", imms=((1, 7),), **kernel
        ),
        "as many as there can be": BlockData(
            guest=moving_code(*[FAR] * bf.MAX_IMMS),
            imms=tuple((9 + 5 * i, 40 * (i % 2)) for i in range(bf.MAX_IMMS)),
            **kernel | {"code": code + b"moving"},
        ),
        "none, but limited": BlockData(
            guest=moving_code(NEAR), block_flags=bf.BLOCK_LIMITED, **kernel
        ),
    }


def refused_blocks() -> dict[str, BlockData]:
    """Blocks that no engine writes: readers refuse them."""
    kernel: dict[str, Any] = {"pc": 0xFFFFFFFF_81000010, "code": b"\xc3" * 40}
    crossing = {**kernel, "pc": 0xFFFFFFFF_81000FF0}
    two, many = moving_code(FAR, FAR), bf.MAX_IMMS + 1
    imms = {
        "nowhere": BlockData(guest=two + b"a", imms=((9, 0xFFFF),), **kernel),
        "behind the host code": BlockData(guest=two + b"c", imms=((9, 37),), **kernel),
        "behind the guest code": BlockData(guest=two, imms=((15, 0),), **kernel),
        "descending": BlockData(guest=two + b"d", imms=((14, 0), (9, 8)), **kernel),
        "overlapping": BlockData(guest=two + b"e", imms=((9, 0), (12, 8)), **kernel),
        "on two pages": BlockData(guest=two + b"f", imms=((9, 0),), **crossing),
        "too many": BlockData(
            guest=moving_code(*[FAR] * many),
            imms=tuple((9 + 5 * i, 0) for i in range(many)),
            **kernel,
        ),
    }
    flags = {
        "short key without an immediate": BlockData(guest=two + b"g", block_flags=2, **kernel),
        "unknown flag": BlockData(guest=two + b"h", block_flags=16, **kernel),
    }
    return imms | flags


def moving_journal() -> bytes:
    """All of these blocks, each second one refused."""
    header = journal_header(FINGERPRINT, TEXT, start_time=1_800_000_000 * 10**9, pid=4244)
    good, bad = list(moving_blocks().values()), list(refused_blocks().values())
    mixed = [block for pair in zip(good, bad, strict=False) for block in pair]
    rest = [*good[len(bad) :], *bad[len(good) :]]
    return header + b"".join(block.record() for block in [*mixed, *rest])


def _pack_of(table: BlockTable) -> bytes:
    return b"".join(PackPieces.plan(FINGERPRINT, TEXT, [table], seed=SEED).chunks())


def moving_pack() -> bytes:
    """The pack of that journal: what is refused is not in it."""
    return _pack_of(parse_journal(memoryview(moving_journal())).blocks)


def refused_pack() -> bytes:
    """A pack that no store writes: its index leads to blocks that are to be refused."""
    found = [block.encode() for block in refused_blocks().values()]
    content = memoryview(b"".join(found))
    ends = np.cumsum([len(block) for block in found])
    return _pack_of(BlockTable.at(content, ends - [len(block) for block in found]))


def moving_expected() -> bytes:
    """What a reader must find in the files with moving immediates, as JSON."""
    table = parse_journal(memoryview(moving_journal())).blocks
    offsets = PackPieces.plan(FINGERPRINT, TEXT, [table], seed=SEED).offsets.tolist()
    found = [
        {"name": name, "pack_offset": offset, "guest": block.guest.hex(), "imms": block.imms}
        for (name, block), offset in zip(moving_blocks().items(), offsets, strict=True)
    ]
    refused = [{"name": n, "guest": block.guest.hex()} for n, block in refused_blocks().items()]
    return json.dumps({"blocks": found, "refused": refused}, indent=1).encode() + b"\n"


def context_pack() -> bytes:
    """The pack of the journal with contexts."""
    return _pack_of(parse_journal(memoryview(context_journal())).blocks)


def pack() -> bytes:
    """The pack of the journal's blocks."""
    return _pack_of(parse_journal(memoryview(journal())).blocks)


def expected() -> bytes:
    """What a reader must find, as JSON."""
    table = parse_journal(memoryview(journal())).blocks
    offsets = PackPieces.plan(FINGERPRINT, TEXT, [table], seed=SEED).offsets
    hashes = key.index_hashes(table, SEED)
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
        "seed": f"{SEED:016x}",
        "journal": {"damaged": 1, "skipped": 1, "tail_bytes": 48 + 160 - 32},
        "blocks": found,
    }
    return json.dumps(values, indent=1).encode() + b"\n"


FILES = {
    "v2.journal": journal,
    "v2-told.pack": pack,
    "v2.expected.json": expected,
    "v2-contexts.journal": context_journal,
    "v2-moving.journal": moving_journal,
    "v2-told-contexts.pack": context_pack,
    "v2-told-moving.pack": moving_pack,
    "v2-moving.expected.json": moving_expected,
    "v2-told-refused.pack": refused_pack,
}


def main() -> None:
    """Write the files into the directory that the command line names."""
    for name, make in FILES.items():
        (Path(sys.argv[1]) / name).write_bytes(make())


if __name__ == "__main__":
    main()
