# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the bytes of a file of ext2, ext3 or ext4 lie: extents, and the older block maps."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from typing import Final

from sysqcache.attribution.imagescan import limits
from sysqcache.formats.access import RandomAccess

_EXTENT_HEADER: Final = struct.Struct("<HHHHI")
_EXTENT_MAGIC: Final = 0xF30A
_EXTENT: Final = struct.Struct("<IHHI")
_EXTENT_INDEX: Final = struct.Struct("<IIHH")

ReadBlock = Callable[[int], bytes]
"""A block of the file system by its number; raises DamagedFileSystem."""


class DamagedFileSystem(Exception):
    """A file system, or a part of it, that can't be read, with the reason in words."""


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """``count`` blocks of a file from block ``logical`` on; ``physical`` 0: zeros."""

    logical: int
    count: int
    physical: int


def extent_runs(root: bytes, read: ReadBlock) -> list[Run]:
    """The runs of an extent tree. Raises DamagedFileSystem.

    :param root: the 60 bytes in the inode.
    """
    runs: list[Run] = []
    nodes = [(root, limits.EXTENT_DEPTH + 1)]
    entries_read = 0
    while nodes:
        node, above = nodes.pop()
        magic, entries, _, depth, _ = _EXTENT_HEADER.unpack_from(node)
        # a child is less deep than its parent: a tree that holds itself ends here
        if magic != _EXTENT_MAGIC or depth >= above or 12 + 12 * entries > len(node):
            raise DamagedFileSystem("a damaged extent tree")
        entries_read += entries
        if entries_read > limits.EXTENTS:
            raise DamagedFileSystem("too many extents")
        for place in range(12, 12 + 12 * entries, 12):
            if depth:
                _, low, high, _ = _EXTENT_INDEX.unpack_from(node, place)
                nodes.append((read(low | high << 32), depth))
            else:
                runs.append(_extent(node, place))
    return runs


def _extent(node: bytes, place: int) -> Run:
    logical, count, high, low = _EXTENT.unpack_from(node, place)
    if count > 32768:  # allocated, but not written yet
        return Run(logical, count - 32768, 0)
    return Run(logical, count, low | high << 32)


class BlockMap:
    """The block map of ext2 and ext3: 12 blocks, then maps of one to three levels.

    :param wanted: blocks that the file has.
    """

    def __init__(self, read: ReadBlock, block_size: int, wanted: int) -> None:
        self._read = read
        self._per_map = block_size // 4
        self._wanted = wanted
        self._left = limits.EXTENTS
        self._blocks: list[int] = []

    def runs(self, root: bytes) -> list[Run]:
        """The runs of the file. Raises DamagedFileSystem."""
        if self._wanted > limits.EXTENTS * 16:
            raise DamagedFileSystem("a file too large for a block map")
        numbers = struct.unpack("<15I", root)
        self._blocks = list(numbers[:12])
        for level, number in enumerate(numbers[12:], 1):
            self._follow(number, level)
        return _joined(self._blocks[: self._wanted])

    def _follow(self, number: int, level: int) -> None:
        """Append the blocks below one map."""
        missing = self._wanted - len(self._blocks)
        if missing <= 0:
            return
        if not number:
            self._blocks += [0] * min(self._per_map**level, missing)
            return
        self._left -= 1
        if self._left < 0:
            raise DamagedFileSystem("a block map that is too large")
        entries = struct.unpack(f"<{self._per_map}I", self._read(number))
        if level == 1:
            self._blocks += entries
            return
        for entry in entries:
            self._follow(entry, level - 1)


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


class FileReader:
    """Bytes of one file, read when they are asked for."""

    def __init__(
        self, disk: RandomAccess, start: int, block: int, size: int, runs: list[Run]
    ) -> None:
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
