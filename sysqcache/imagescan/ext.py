# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading ext2, ext3 and ext4: the kernel's Documentation/filesystems/ext4.

A reader of our own because none fits: docs/imagescan.md compares them. It reads names,
inodes and file bytes, checks no checksums and replays no journal: what it gives is
believed only after the code itself was compared. Every loop has a bound.
"""

from __future__ import annotations

import dataclasses
import functools
import struct
from collections.abc import Iterator
from typing import Final

from sysqcache.imagescan import limits
from sysqcache.imagescan.blocks import Blocks, BytesBlocks

ROOT: Final = 2
"""Number of the root directory's inode."""

_SUPER: Final = 1024
_MAGIC: Final = 0xEF53
_EXTENTS_FLAG: Final = 0x80000
_INLINE_FLAG: Final = 0x10000000
_ENCRYPT_FLAG: Final = 0x800
_INCOMPAT_64BIT: Final = 0x80
_INCOMPAT_FILETYPE: Final = 0x2
_INCOMPAT_RECOVER: Final = 0x4
_INCOMPAT_KNOWN: Final = 0x3E7C6
"""All but compression (1), a journal device (8), meta_bg (0x10), whose table lies elsewhere,
and Lustre's dirdata (0x1000)."""

_EXTENT_HEADER: Final = struct.Struct("<HHHHI")
_EXTENT_MAGIC: Final = 0xF30A
_EXTENT: Final = struct.Struct("<IHHI")
_EXTENT_INDEX: Final = struct.Struct("<IIHH")
_ATTRIBUTES: Final = b"\x00\x00\x02\xea"
_ATTRIBUTE: Final = struct.Struct("<BBHIII")
_SYSTEM: Final = 7
_DIRENT: Final = struct.Struct("<IHBB")
_PIECE: Final = 16 << 10


class DamagedFileSystem(Exception):
    """A file system, or a part of it, that can't be read, with the reason in words."""


@dataclasses.dataclass(frozen=True, slots=True)
class Inode:
    """A file or directory; ``size`` in bytes.

    :param block: the 60 bytes of its block map.
    :param inline: the bytes of a small file that lie in the inode, else None.
    """

    number: int
    mode: int
    size: int
    flags: int
    block: bytes
    inline: bytes | None = None

    @property
    def is_directory(self) -> bool:
        """A directory."""
        return self.mode & 0xF000 == 0x4000

    @property
    def is_file(self) -> bool:
        """A regular file."""
        return self.mode & 0xF000 == 0x8000


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """``count`` blocks of a file from block ``logical`` on; ``physical`` 0: zeros."""

    logical: int
    count: int
    physical: int


class ExtFileSystem:
    """A file system that begins at byte ``start`` of ``disk``.

    Raises DamagedFileSystem when its super block makes no sense or asks for features
    that are not known here.
    """

    def __init__(self, disk: Blocks, start: int) -> None:
        self._disk = disk
        self._start = start
        raw = disk.read(start + _SUPER, 1024)
        if len(raw) < 1024 or struct.unpack_from("<H", raw, 56)[0] != _MAGIC:
            raise DamagedFileSystem("there is no super block")
        self._read_super(raw)
        self._tables = self._inode_tables(raw)
        self._piece = functools.lru_cache(limits.CACHED_BLOCKS)(self._read_piece)

    def _read_super(self, raw: bytes) -> None:
        (log_size,) = struct.unpack_from("<I", raw, 24)
        (self._inodes,) = struct.unpack_from("<I", raw, 0)
        (self._per_group,) = struct.unpack_from("<I", raw, 40)
        revision, size = struct.unpack_from("<I8xH", raw, 76)
        self._inode_size = size if revision else 128
        (incompat,) = struct.unpack_from("<I", raw, 96)
        self._features = incompat if revision else 0
        if log_size > 6 or not self._per_group or not self._inodes:
            raise DamagedFileSystem("the super block makes no sense")
        self.block_size = 1024 << log_size
        if not 128 <= self._inode_size <= self.block_size:
            raise DamagedFileSystem(f"inodes of {self._inode_size} bytes")
        unknown = self._features & ~_INCOMPAT_KNOWN
        if unknown:
            raise DamagedFileSystem(f"features {unknown:#x} are not known")

    def _inode_tables(self, raw: bytes) -> list[int]:
        """First blocks of the inode tables of all groups."""
        size = 32
        if self._features & _INCOMPAT_64BIT:
            (size,) = struct.unpack_from("<H", raw, 254)
            if not 64 <= size <= 1024:
                raise DamagedFileSystem(f"group descriptors of {size} bytes")
        groups = -(-self._inodes // self._per_group)
        if groups > limits.BLOCK_GROUPS:
            raise DamagedFileSystem(f"{groups} block groups")
        first = _SUPER // self.block_size + 1  # the block behind the super block's
        content = self._bytes(first * self.block_size, groups * size)
        tables = []
        for place in range(0, len(content) - size + 1, size):
            (table,) = struct.unpack_from("<I", content, place + 8)
            high = struct.unpack_from("<I", content, place + 40)[0] if size >= 64 else 0
            tables.append(table | high << 32)
        return tables

    @property
    def unclean(self) -> bool:
        """The journal holds changes that the file system does not have yet."""
        return bool(self._features & _INCOMPAT_RECOVER)

    def _bytes(self, offset: int, size: int) -> bytes:
        return self._disk.read(self._start + offset, size)

    def _read_piece(self, number: int) -> bytes:
        return self._bytes(number * _PIECE, _PIECE)

    def inode(self, number: int) -> Inode:
        """An inode by its number. Raises DamagedFileSystem."""
        group, place = divmod(number - 1, self._per_group)
        if not 0 < number <= self._inodes or group >= len(self._tables):
            raise DamagedFileSystem(f"there is no inode {number}")
        offset = self._tables[group] * self.block_size + place * self._inode_size
        piece, inside = divmod(offset, _PIECE)
        raw = self._piece(piece)[inside : inside + self._inode_size]
        if len(raw) < 128:
            raise DamagedFileSystem(f"inode {number} lies outside of the disk")
        mode, low = struct.unpack_from("<H2xI", raw)
        (flags,) = struct.unpack_from("<I", raw, 32)
        (high,) = struct.unpack_from("<I", raw, 108)
        # in directories of ext2 the high half of the size means something else
        size = low | high << 32 if mode & 0xF000 == 0x8000 else low
        inline = raw[40:100] + _inline_rest(raw) if flags & _INLINE_FLAG else None
        return Inode(number, mode, size, flags, raw[40:100], inline)

    def runs(self, inode: Inode) -> list[Run]:
        """Where a file's bytes lie, in ascending order. Raises DamagedFileSystem."""
        if inode.flags & _ENCRYPT_FLAG:
            raise DamagedFileSystem(f"inode {inode.number} is encrypted")
        extents = inode.flags & _EXTENTS_FLAG
        runs = self._extents(inode) if extents else self._mapped(inode)
        return sorted(runs, key=lambda run: run.logical)

    def _extents(self, inode: Inode) -> list[Run]:
        runs: list[Run] = []
        nodes = [(inode.block, limits.EXTENT_DEPTH + 1)]
        read = 0
        while nodes:
            node, above = nodes.pop()
            magic, entries, _, depth, _ = _EXTENT_HEADER.unpack_from(node)
            # a child is less deep than its parent: a tree that holds itself ends here
            if magic != _EXTENT_MAGIC or depth >= above or 12 + 12 * entries > len(node):
                raise DamagedFileSystem(f"inode {inode.number} has a damaged extent tree")
            read += entries
            if read > limits.EXTENTS:
                raise DamagedFileSystem(f"inode {inode.number} has too many extents")
            for place in range(12, 12 + 12 * entries, 12):
                if depth:
                    _, low, high, _ = _EXTENT_INDEX.unpack_from(node, place)
                    nodes.append((self._block(low | high << 32), depth))
                else:
                    runs.append(_extent(node, place))
        return runs

    def _block(self, number: int) -> bytes:
        content = self._bytes(number * self.block_size, self.block_size)
        if len(content) < self.block_size:
            raise DamagedFileSystem(f"block {number} lies outside of the disk")
        return content

    def _mapped(self, inode: Inode) -> list[Run]:
        """The block map of ext2 and ext3: 12 blocks, then maps of one to three levels."""
        wanted = -(-inode.size // self.block_size)
        if wanted > limits.EXTENTS * 16:
            raise DamagedFileSystem(f"inode {inode.number} is too large for a block map")
        numbers = list(struct.unpack("<15I", inode.block))
        blocks = numbers[:12]
        budget = [limits.EXTENTS]
        for level, number in enumerate(numbers[12:], 1):
            if len(blocks) < wanted:
                self._follow(number, level, blocks, wanted, budget)
        return _joined(blocks[:wanted])

    def _follow(
        self, number: int, level: int, blocks: list[int], wanted: int, budget: list[int]
    ) -> None:
        """Append the blocks below one map; ``budget`` counts the maps that may be read."""
        per_map = self.block_size // 4
        if not number:
            blocks += [0] * min(per_map**level, max(0, wanted - len(blocks)))
            return
        budget[0] -= 1
        if budget[0] < 0:
            raise DamagedFileSystem("a block map is too large")
        entries = struct.unpack(f"<{per_map}I", self._block(number))
        if level == 1:
            blocks += entries
            return
        for entry in entries:
            if len(blocks) >= wanted:
                return
            self._follow(entry, level - 1, blocks, wanted, budget)

    def open(self, inode: Inode) -> Blocks:
        """Random access to a file's bytes. Raises DamagedFileSystem."""
        if inode.inline is not None:
            return BytesBlocks(inode.inline[: inode.size])
        return FileReader(self._disk, self._start, self.block_size, inode.size, self.runs(inode))

    def find(self, path: str) -> Inode | None:
        """The inode of an absolute path, None when there is none; links are not followed.

        Raises DamagedFileSystem.
        """
        inode = self.inode(ROOT)
        for part in path.strip("/").split("/"):
            if not inode.is_directory:
                return None
            number = dict(self.entries(inode)).get(part)
            if number is None:
                return None
            inode = self.inode(number)
        return inode

    def entries(self, inode: Inode) -> Iterator[tuple[str, int]]:
        """Names and inode numbers in a directory, without "." and "..".

        Raises DamagedFileSystem at the end of what can be read; damaged blocks are skipped.
        """
        if inode.size > limits.DIRECTORY_BYTES:
            raise DamagedFileSystem(f"the directory of inode {inode.number} is too large")
        # a tree of hashes is hidden in entries that look deleted, so plain reading is enough
        if inode.inline is not None:
            # the parent's number comes first; what is in the attribute is a part of its own
            yield from self._block_entries(inode.inline[4:60])
            yield from self._block_entries(inode.inline[60:])
            return
        content = self.open(inode).read(0, inode.size)
        for start in range(0, len(content), self.block_size):
            yield from self._block_entries(content[start : start + self.block_size])
        if len(content) < inode.size:
            raise DamagedFileSystem(f"the directory of inode {inode.number} can't be read")

    def _block_entries(self, block: bytes) -> Iterator[tuple[str, int]]:
        place = 0
        while place + 8 <= len(block):
            number, length, name_size, kind = _DIRENT.unpack_from(block, place)
            if not self._features & _INCOMPAT_FILETYPE:
                name_size |= kind << 8
            if length == 0xFFFF or (length == 0 and self.block_size == 65536):
                length = 65536
            if length < 8 or length % 4 or name_size + 8 > length:
                return
            name = block[place + 8 : place + 8 + name_size]
            if number and name not in (b"", b".", b"..") and b"/" not in name:
                yield name.decode("utf-8", "surrogateescape"), number
            place += length


class FileReader:
    """Bytes of one file, read when they are asked for."""

    def __init__(self, disk: Blocks, start: int, block: int, size: int, runs: list[Run]) -> None:
        self._disk = disk
        self._start = start
        self._block = block
        self._size = size
        self._runs = runs

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from ``offset``; fewer at the file's end and where the disk ends."""
        end = min(offset + size, self._size)
        if offset < 0 or end <= offset:
            return b""
        parts: list[bytes] = []
        for run in self._runs:
            begin = run.logical * self._block
            stop = min(begin + run.count * self._block, end)
            if stop <= offset:
                continue
            if begin >= end:
                break
            if begin > offset:
                parts.append(bytes(begin - offset))
                offset = begin
            part = self._from(run, offset - begin, stop - offset)
            parts.append(part)
            offset += len(part)
            if offset < stop:
                return b"".join(parts)
        parts.append(bytes(end - offset))  # a hole
        return b"".join(parts)

    def _from(self, run: Run, skip: int, size: int) -> bytes:
        if not run.physical:
            return bytes(size)
        return self._disk.read(self._start + run.physical * self._block + skip, size)


def _inline_rest(raw: bytes) -> bytes:
    """The rest of a small file's bytes, in the attribute "system.data" behind the inode."""
    start = 128 + int.from_bytes(raw[128:130], "little")
    if raw[start : start + 4] != _ATTRIBUTES:
        return b""
    place = first = start + 4
    while place + _ATTRIBUTE.size <= len(raw) and raw[place]:
        length, kind, offset, _, size, _ = _ATTRIBUTE.unpack_from(raw, place)
        name = raw[place + _ATTRIBUTE.size : place + _ATTRIBUTE.size + length]
        if (kind, name) == (_SYSTEM, b"data"):
            return raw[first + offset : first + offset + size]
        place += (_ATTRIBUTE.size + length + 3) & ~3
    return b""


def _extent(node: bytes, place: int) -> Run:
    logical, count, high, low = _EXTENT.unpack_from(node, place)
    if count > 32768:  # allocated, but not written yet
        return Run(logical, count - 32768, 0)
    return Run(logical, count, low | high << 32)


def _joined(blocks: list[int]) -> list[Run]:
    """Runs of blocks that follow one another in the file and on the disk."""
    runs: list[Run] = []
    for logical, physical in enumerate(blocks):
        if not physical:
            continue
        last = runs[-1] if runs else Run(0, 0, 0)
        if (logical, physical) == (last.logical + last.count, last.physical + last.count):
            runs[-1] = Run(last.logical, last.count + 1, last.physical)
        else:
            runs.append(Run(logical, 1, physical))
    return runs
