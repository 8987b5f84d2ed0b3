# SPDX-License-Identifier: GPL-2.0-or-later
"""Byte layout of blocks, journals and packs, version 2.

Each format is one :class:`Layout`: the table that docs/formats.md shows and the
numpy type that the code reads with are both made from it. All numbers are
little-endian; all checksums are XXH3-64 with seed 0. Version 1 had the same layout, but
for the pack's ``seed``; docs/formats.md says what else differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

from sysqcache.base.errors import FormatError

Buffer: TypeAlias = bytes | bytearray | memoryview
Records: TypeAlias = NDArray[np.void]
"""A numpy array of a layout's structured type."""

VERSION: Final = 2
OLDEST_KNOWN: Final = 1
"""Headers from this version on can be told from damage; blocks are read of ``VERSION`` alone."""

HEADER_SIZE: Final = 4096
PAGE_BITS: Final = 12
PAGE_SIZE: Final = 1 << PAGE_BITS
ALIGN: Final = 16
"""Blocks, records and index entries start at multiples of this many bytes."""

JOURNAL_MAGIC: Final = b"SYSQJRNL"
PACK_MAGIC: Final = b"SYSQPACK"
RECORD_MAGIC: Final = 0x4C425153
RECORD_BLOCK: Final = 1
RECORD_RAM_MAP: Final = 2
RECORD_DEAD: Final = 3
RECORD_PACK: Final = 4
RECORD_ADOPTED: Final = 5
RECORDS_KNOWN: Final = (RECORD_BLOCK, RECORD_RAM_MAP, RECORD_DEAD, RECORD_PACK, RECORD_ADOPTED)
BLOCK_TWO_PAGES: Final = 1
BLOCK_SHORT_KEY: Final = 2
"""A moving immediate begins among the first eight guest bytes: the key has one byte."""

BLOCK_ANY_CONTEXT: Final = 4
"""Serves machines with one vCPU and with several; else ``cflags`` tell which."""

BLOCK_LIMITED: Final = 8
"""A buffer of the translator was full: another run may have got further."""

CF_PARALLEL: Final = 0x8000
"""In ``cflags``: translated for a machine that may have several vCPUs."""

BLOCK_IMMS_SHIFT: Final = 8
"""Bits 8..15 of ``block_flags`` count the moving immediates."""

IMM_BYTES: Final = 4
MAX_IMMS: Final = 48
"""TCG_MAX_GUEST_IMMS of the engine: no block has more moving immediates."""

BLOCK_FLAGS_KNOWN: Final = 0xFF00 | 15
IMM_RELATIVE: Final = 0x8000
IMM_NOWHERE: Final = 0xFFFF
"""What version 1 had for ``host`` of an immediate without a place; refused since."""

NO_JUMP: Final = 0xFFFF
MAX_INSNS: Final = 512
"""TCG_MAX_INSNS of QEMU: no block has more guest instructions."""

NO_RAM: Final = 0xFFFFFFFFFFFFFFFF
PREFIX_BYTES: Final = 8
MAX_BLOCK: Final = 96 << 10
"""Bytes of a block without padding; the engine neither records nor adopts larger ones."""

MAX_SAME_KEY: Final = 256
"""So many blocks with one key of the index are written into one pack."""

MAX_CANDIDATES: Final = 320
"""So many entries of the index with the tag and prefix of a lookup does it compare."""

MAX_WALK: Final = 4096
"""So many entries of the index does a lookup read, from its home slot on."""

MAX_PACKS: Final = 1024
"""So many packs does an engine map: no boot set names more."""

INDEX_TOLD: Final = 0x8000
"""In an index entry's ``page_offset``; files of before have the guest code's size there."""

INDEX_LONG: Final = 0x1000
"""In an index entry's ``page_offset``: the key has eight guest bytes."""

_CTYPES: Final[dict[str, str]] = {
    "u64": "<u8",
    "u32": "<u4",
    "u16": "<u2",
    "char[8]": "S8",
    "char[72]": "S72",
    "u8[32]": "V32",
}


def _numpy_type(ctype: str) -> Any:
    if ctype in _CTYPES:
        return _CTYPES[ctype]
    base, _, count = ctype.rstrip("]").partition("[")
    if base == "u8":
        return f"V{count}"
    return (_CTYPES[base], (int(count),))


@dataclass(frozen=True)
class Field:
    """One row of a byte table: ``offset`` in bytes from the start of the structure."""

    offset: int
    ctype: str
    name: str
    meaning: str


class Layout:
    """A structure of ``size`` bytes; bytes that no field covers are zero."""

    def __init__(self, name: str, size: int, *fields: Field) -> None:
        self.name = name
        self.size = size
        self.fields = fields

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """The structured numpy type, itemsize ``size``."""
        return np.dtype(
            {
                "names": [f.name for f in self.fields],
                "formats": [_numpy_type(f.ctype) for f in self.fields],
                "offsets": [f.offset for f in self.fields],
                "itemsize": self.size,
            }
        )

    def pack(self, **values: object) -> bytearray:
        """Bytes of one structure; fields that are not named are zero."""
        record = np.zeros(1, self.dtype)
        for name, value in values.items():
            wanted = self.dtype[name]
            record[name] = np.void(value) if wanted.kind == "V" else value  # type: ignore[call-overload]
        return bytearray(record.tobytes())

    def unpack(self, buffer: Buffer, offset: int = 0) -> np.void:
        """The structure at ``offset``; raises ValueError when it does not fit."""
        view: np.void = np.frombuffer(buffer, self.dtype, count=1, offset=offset)[0]
        return view

    def markdown(self) -> str:
        """The byte table as docs/formats.md shows it."""
        rows = [f"| {f.offset} | {f.ctype} | `{f.name}` | {f.meaning} |" for f in self.fields]
        return "\n".join(["| offset | type | field | meaning |", "|---|---|---|---|", *rows])


BLOCK: Final = Layout(
    "block",
    48,
    Field(0, "u64", "checksum", "of bytes 8 up to the padding"),
    Field(8, "u64", "cs_base", "as QEMU's TranslationBlock"),
    Field(16, "u32", "flags", "as QEMU's TranslationBlock"),
    Field(20, "u32", "cflags", "final compile flags; CF_PARALLEL is 0x8000"),
    Field(24, "u16", "page_offset", "guest pc & 4095"),
    Field(26, "u16", "guest_size", "guest bytes, 1..4096"),
    Field(28, "u16", "icount", "guest instructions"),
    Field(30, "u16", "search_size", "bytes of encoded search data"),
    Field(32, "u32", "code_size", "bytes of host code, constant pool included"),
    Field(36, "u16[2]", "jmp_reset_offset", "0xffff = no such jump"),
    Field(40, "u16[2]", "jmp_insn_offset", "0xffff = no such jump"),
    Field(
        44,
        "u32",
        "block_flags",
        "bit 0: two pages; 1: short key; 2: any context; 3: limited; 8..15: moving immediates",
    ),
)
"""Followed by guest code, host code, search data, moving immediates, zeros up to 16."""

BLOCK_IMM: Final = Layout(
    "moving immediate",
    4,
    Field(0, "u16", "guest", "offset in the guest code; bit 15: a distance"),
    Field(2, "u16", "host", "offset in the host code"),
)

RECORD: Final = Layout(
    "record",
    48,
    Field(0, "u32", "magic", '0x4c425153 ("SQBL")'),
    Field(4, "u32", "total_size", "header and padded payload, a multiple of 16"),
    Field(8, "u16", "type", "1 block, 2 RAM map, 3 dead area, 4 pack, 5 adopted"),
    Field(10, "u16", "vcpu", "index of the vCPU that translated"),
    Field(12, "u32", "payload_size", "bytes of payload"),
    Field(16, "u64", "pc", "guest virtual address"),
    Field(24, "u64", "ram0", "ram_addr_t of the first guest byte"),
    Field(32, "u64", "ram1", "ram_addr_t of the second page, or 2^64-1"),
    Field(40, "u64", "checksum", "of bytes 0..39"),
)

RAM_RANGE: Final = Layout(
    "ram range",
    24,
    Field(0, "u64", "ram_addr", "ram_addr_t of the first byte"),
    Field(8, "u64", "guest_physical", "guest physical address of it"),
    Field(16, "u64", "size", "bytes"),
)

DEAD_AREA: Final = Layout(
    "dead area",
    16,
    Field(0, "u64", "ram_addr", "ram_addr_t at which blocks began"),
    Field(8, "u32", "size", "guest bytes of the last one"),
    Field(12, "u32", "changes", "how often other code was there"),
)

PACK_NAME: Final = Layout(
    "pack name",
    80,
    Field(0, "u32", "number", "its place in the engine's list, from 0"),
    Field(4, "u32", "reserved", "0"),
    Field(8, "char[72]", "name", "file name without .pack, cut to 71, zero padded"),
)

ADOPTED: Final = Layout(
    "adopted",
    16,
    Field(0, "u32", "position", "of the block in its pack / 16, as in the index"),
    Field(4, "u16", "pack", "number of the pack"),
    Field(6, "u16", "vcpu", "index of the vCPU that wanted it"),
    Field(8, "u64", "ram0", "ram_addr_t of the first guest byte"),
)

JOURNAL_HEADER: Final = Layout(
    "journal header",
    HEADER_SIZE,
    Field(0, "char[8]", "magic", '"SYSQJRNL"'),
    Field(8, "u32", "version", "2"),
    Field(12, "u32", "header_size", "4096"),
    Field(16, "u8[32]", "fingerprint", "raw SHA-256"),
    Field(48, "u32", "page_bits", "12"),
    Field(52, "u32", "text_size", "bytes of fingerprint text"),
    Field(56, "u64", "start_time", "nanoseconds since 1970"),
    Field(64, "u32", "pid", "of the engine"),
    Field(68, "u32", "reserved", "0"),
    Field(72, "u8[4016]", "text", "fingerprint text, zero padded"),
    Field(4088, "u64", "checksum", "of bytes 0..4087"),
)

PACK_HEADER: Final = Layout(
    "pack header",
    HEADER_SIZE,
    Field(0, "char[8]", "magic", '"SYSQPACK"'),
    Field(8, "u32", "version", "2"),
    Field(12, "u32", "header_size", "4096"),
    Field(16, "u8[32]", "fingerprint", "raw SHA-256"),
    Field(48, "u32", "page_bits", "12"),
    Field(52, "u32", "text_size", "bytes of fingerprint text"),
    Field(56, "u64", "file_size", "bytes of the whole file"),
    Field(64, "u64", "block_count", "blocks, one index entry each"),
    Field(72, "u64", "slot_count", "home slots: block_count*3/2 + 16"),
    Field(80, "u64", "index_entries", "home slots and overflow; the last is empty"),
    Field(88, "u64", "index_offset", "a multiple of 4096; the file ends with the index"),
    Field(96, "u64", "blocks_offset", "4096"),
    Field(104, "u64", "blocks_size", "bytes of all blocks, padding included"),
    Field(112, "u32", "flags_any", "flags of all blocks, ored"),
    Field(116, "u32", "flags_all", "flags of all blocks, anded; both 0 = not known"),
    Field(120, "u64", "seed", "keys the index hash"),
    Field(128, "u8[3960]", "text", "fingerprint text, zero padded"),
    Field(4088, "u64", "checksum", "of bytes 0..4087"),
)

INDEX_ENTRY: Final = Layout(
    "index entry",
    16,
    Field(0, "u64", "prefix", "first min(8, guest_size) guest bytes, rest 0"),
    Field(8, "u32", "position", "of the block / 16, from the file's start; 0 = empty"),
    Field(12, "u16", "page_offset", "of the block \\| long << 12 \\| 0x8000"),
    Field(14, "u16", "tag", "hash & 0xffff"),
)

LAYOUTS: Final = (
    BLOCK,
    BLOCK_IMM,
    JOURNAL_HEADER,
    RECORD,
    RAM_RANGE,
    DEAD_AREA,
    PACK_NAME,
    ADOPTED,
    PACK_HEADER,
    INDEX_ENTRY,
)
"""Every structure of version 2, in the order of docs/formats.md."""


def left_out_state(count: int) -> tuple[str, str]:
    """What so many packs beyond :data:`MAX_PACKS` mean, and the remedy."""
    text = f"{count:,} packs are left out, as an engine maps {MAX_PACKS:,}"
    return text, "sysqcache cache compact --max-bytes N"


def left_out_words(count: int) -> str:
    """The same as a warning."""
    return f"{'; '.join(left_out_state(count))} removes those that were used least"


def checksum(data: Buffer) -> int:
    """XXH3-64, seed 0."""
    return xxhash.xxh3_64_intdigest(data)


def require(good: bool, refused: str, reason: str, words: str = "") -> None:
    """Raise FormatError unless ``good``; ``refused`` says which file, ``words`` why, in words."""
    if not good:
        raise FormatError(f"{refused}: {words or f'bad {reason}'}", reason=reason)


def open_header(first: Buffer, layout: Layout, magic: bytes, refused: str, oldest: int) -> np.void:
    """The header of a journal or pack, if magic, version, checksum and size of pages are good.

    Raises FormatError as :func:`require`, with one of ``counters.REJECTS`` as reason.

    :param oldest: headers of format versions from this one on are read.
    """
    require(len(first) >= HEADER_SIZE, refused, "truncated")
    head = layout.unpack(first)
    require(bytes(first[:8]) == magic, refused, "magic")
    found = int(head["version"])
    words = f"it has format version {found}, and version {VERSION} is read"
    require(oldest <= found <= VERSION, refused, "version", words)
    body = memoryview(first)[: HEADER_SIZE - 8]
    require(head["checksum"] == checksum(body), refused, "header-checksum")
    require(head["page_bits"] == PAGE_BITS, refused, "page-bits")
    return head


def header_text(head: np.void, refused: str) -> str:
    """The fingerprint text of a header. Raises FormatError as :func:`require`."""
    text = head["text"].tobytes()
    require(head["text_size"] <= len(text), refused, "bounds")
    return str(text[: int(head["text_size"])].decode("utf-8", "replace"))


def padded(size: int) -> int:
    """``size`` rounded up to a multiple of :data:`ALIGN`."""
    return (size + ALIGN - 1) & -ALIGN


def seal_header(header: bytearray) -> bytes:
    """Write the checksum of a journal or pack header into its last 8 bytes."""
    header[4088:4096] = checksum(memoryview(header)[:4088]).to_bytes(8, "little")
    return bytes(header)
