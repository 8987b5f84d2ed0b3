# SPDX-License-Identifier: GPL-2.0-or-later
"""The file that QEMU migrates a machine into: where its RAM lies, and its checksum.

With the capability ``mapped-ram`` each block of guest memory has a fixed place in the
file, page after page, zero pages as holes. So the same file can be read into memory, or be
mapped as the memory. The layout is QEMU's migration stream (docs/devel/migration in its
source): big-endian, a section "ram" that lists all blocks, each with a header that says
where its bitmap and its pages begin.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import xxhash

from sysqcache.base.errors import SavedStateError

_MAGIC: Final = 0x5145564D
_HEAD_BYTES: Final = 64 << 10
_RAM_SECTION: Final = b"\x03ram"
_SECTION_START: Final = 1
_FLAG_MEM_SIZE: Final = 4
_PAGE_MASK: Final = ~4095
_BLOCK_HEADER: Final = struct.Struct(">IQQQ")
_MAX_BLOCKS: Final = 1024
_PAGES_ALIGNED: Final = 1 << 20
"""Pages begin at multiples of this (MAPPED_RAM_FILE_OFFSET_ALIGNMENT of QEMU 10.0)."""
_PAGES_A_BYTE: Final = 8 * 4096
_HEADERS_BYTES: Final = 512
"""More than precedes the bitmap of the first block."""
_CHUNK: Final = 8 << 20
_ZEROS: Final = bytes(_CHUNK)


@dataclasses.dataclass(frozen=True, slots=True)
class RamBlock:
    """A block of guest memory: ``size`` bytes at ``offset`` of the file."""

    name: str
    size: int
    offset: int


@dataclasses.dataclass(frozen=True, slots=True)
class Checksums:
    """XXH3-128 of a file's data with their places, hexadecimal.

    ``whole`` covers everything, ``state`` all but the pages of the largest block, so that
    devices can be checked without reading guest memory. Holes count for nothing.
    """

    whole: str
    state: str

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """From a record; raises KeyError."""
        return cls(str(value["whole"]), str(value["state"]))


def read_blocks(path: Path) -> dict[str, RamBlock]:
    """The blocks of guest memory of a state file. Raises :class:`SavedStateError`, OSError."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
        if len(head) < 8 or int.from_bytes(head[:4], "big") != _MAGIC:
            raise SavedStateError(f"{path} is not a saved machine")
        try:
            return _blocks(stream, _ram_section(head))
        except (struct.error, ValueError) as error:
            raise SavedStateError(
                f"{path} has no guest memory that can be found: {error}"
            ) from error


def first_offset(size: int) -> int:
    """Where QEMU will write the pages of a machine's largest block, of ``size`` bytes.

    The largest comes first, a bitmap of its pages before it.
    """
    return -(-(_HEADERS_BYTES + size // _PAGES_A_BYTE) // _PAGES_ALIGNED) * _PAGES_ALIGNED


def _ram_section(head: bytes) -> int:
    """Where the data of the section "ram" begin."""
    at = head.find(_RAM_SECTION)
    # type, section id, name, instance and version, each of four bytes but the type
    if at < 5 or head[at - 5] != _SECTION_START:
        raise ValueError("no section for RAM")
    return at + len(_RAM_SECTION) + 8


def _blocks(stream: Any, position: int) -> dict[str, RamBlock]:
    stream.seek(position)
    (total,) = struct.unpack(">Q", stream.read(8))
    if total & _FLAG_MEM_SIZE == 0:
        raise ValueError("no list of blocks")
    left = total & _PAGE_MASK
    found: dict[str, RamBlock] = {}
    while left > 0 and len(found) < _MAX_BLOCKS:
        (length,) = stream.read(1)
        name = stream.read(length).decode("utf-8")
        (size,) = struct.unpack(">Q", stream.read(8))
        _, _, _, pages = _BLOCK_HEADER.unpack(stream.read(_BLOCK_HEADER.size))
        found[name] = RamBlock(name, size, pages)
        left -= size
        stream.seek(pages + size)
    if left:
        raise ValueError("the sizes of the blocks do not add up")
    return found


def checksums(path: Path) -> Checksums:
    """Read a state file's data once. Raises :class:`SavedStateError`, OSError."""
    ram = largest_block(path)
    whole, state = xxhash.xxh3_128(), xxhash.xxh3_128()
    with path.open("rb", buffering=0) as stream:
        for start, end in _chunks(stream.fileno(), ram):
            outside = not ram.offset <= start < ram.offset + ram.size
            _digest(stream.fileno(), start, end, (whole, state) if outside else (whole,))
    return Checksums(whole.hexdigest(), state.hexdigest())


def state_checksum(path: Path) -> str:
    """:attr:`Checksums.state` alone, without reading guest memory."""
    ram = largest_block(path)
    state = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as stream:
        for start, end in _chunks(stream.fileno(), ram):
            if not ram.offset <= start < ram.offset + ram.size:
                _digest(stream.fileno(), start, end, (state,))
    return state.hexdigest()


def file_checksum(path: Path) -> str:
    """XXH3-128 of any file's data with their places, hexadecimal. Raises OSError."""
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as stream:
        for start, end in _chunks(stream.fileno(), RamBlock("", 0, 0)):
            _digest(stream.fileno(), start, end, (digest,))
    return digest.hexdigest()


def largest_block(path: Path) -> RamBlock:
    """What a machine's memory is called in vm.yaml. Raises as :func:`read_blocks`."""
    blocks = read_blocks(path).values()
    return max(blocks, key=lambda block: block.size, default=RamBlock("", 0, 0))


def _digest(fd: int, start: int, end: int, digests: Sequence[xxhash.xxh3_128]) -> None:
    """Add a part of a file; zeros count for nothing, as they may be a hole elsewhere."""
    part = os.pread(fd, end - start, start)
    if part == _ZEROS[: len(part)]:
        return
    for digest in digests:
        digest.update(start.to_bytes(8, "little"))
        digest.update(part)


def _chunks(fd: int, ram: RamBlock) -> Iterator[tuple[int, int]]:
    """Parts of a file that are not all holes, cut at fixed places and at the ends of ``ram``."""
    size, position = os.fstat(fd).st_size, 0
    edges = (ram.offset, ram.offset + ram.size)
    while position < size:
        try:
            data = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        start = max(position, data // _CHUNK * _CHUNK, *(e for e in (0, *edges) if e <= data))
        stop = min(size, (start // _CHUNK + 1) * _CHUNK, *(e for e in (size, *edges) if e > start))
        yield start, stop
        position = stop


def allocated(path: Path) -> int:
    """Bytes that a file takes on the disk. Raises OSError."""
    return path.stat().st_blocks * 512
