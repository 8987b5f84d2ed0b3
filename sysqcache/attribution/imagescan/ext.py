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

from sysqcache.attribution.imagescan import limits
from sysqcache.attribution.imagescan.extmap import (
    BlockMap,
    DamagedFileSystem,
    FileReader,
    Run,
    extent_runs,
)
from sysqcache.formats.access import MemoryAccess, RandomAccess

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

_ATTRIBUTES: Final = b"\x00\x00\x02\xea"
_ATTRIBUTE: Final = struct.Struct("<BBHIII")
_SYSTEM: Final = 7
_DIRENT: Final = struct.Struct("<IHBB")
_PIECE: Final = 16 << 10


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


class ExtFileSystem:
    """A file system that begins at byte ``start`` of ``disk``.

    Raises DamagedFileSystem when its super block makes no sense or asks for features
    that are not known here.
    """

    def __init__(self, disk: RandomAccess, start: int) -> None:
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
        if inode.flags & _EXTENTS_FLAG:
            runs = extent_runs(inode.block, self._block)
        else:
            wanted = -(-inode.size // self.block_size)
            runs = BlockMap(self._block, self.block_size, wanted).runs(inode.block)
        return sorted(runs, key=lambda run: run.logical)

    def _block(self, number: int) -> bytes:
        content = self._bytes(number * self.block_size, self.block_size)
        if len(content) < self.block_size:
            raise DamagedFileSystem(f"block {number} lies outside of the disk")
        return content

    def open(self, inode: Inode) -> RandomAccess:
        """Random access to a file's bytes. Raises DamagedFileSystem."""
        if inode.inline is not None:
            return MemoryAccess(inode.inline[: inode.size])
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
