# SPDX-License-Identifier: GPL-2.0-or-later
"""Checksums of a snapshot inside a qcow2 image, which hold whatever is written there later.

Clusters of a snapshot are counted references: who writes to the disk afterwards gets
others, so a snapshot's tables and data stay the same bytes at the same place until it is
deleted. Only the flag of a table entry that says "referred to once" comes and goes. The
layout is QEMU's docs/interop/qcow2.rst: the snapshot's own table (L1) leads to tables (L2)
of the disk, and behind the disk's end to those of the machine's state.
"""

from __future__ import annotations

import dataclasses
import os
import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import xxhash

from sysqcache.base.errors import SavedStateError

_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQ")
"""Magic, version, backing file (place, length), cluster bits, disk size, encryption, L1
entries, L1, refcount table (place, clusters), number of snapshots, their table."""
_ENTRY: Final = struct.Struct(">QIHHIIQII")
"""Place of the L1 and its entries, lengths of id and name, date (2), clock, state size,
length of what follows before id and name."""
_MAGIC: Final = b"QFI\xfb"
_EXTENDED_L2: Final = 1 << 4
_KNOWN_FEATURES: Final = 0b11011  # dirty, corrupt, compression type, extended L2
_PLACE: Final = 0x00FFFFFFFFFFFE00
_COMPRESSED: Final = 1 << 62
_ZERO: Final = 1
_CLEAR_COPIED: Final = bytes(byte & 0x7F for byte in range(256))
_MAX_SNAPSHOTS: Final = 65536
_MAX_EXTRA: Final = 1024
_MAX_L1: Final = 32 << 20
_CHUNK: Final = 1 << 20


class DamagedImage(SavedStateError):
    """An image whose tables can't be right, or that lacks the snapshot."""


@dataclasses.dataclass(frozen=True, slots=True)
class SnapshotSums:
    """XXH3-128 of one snapshot in one image, hexadecimal.

    :param tables: its sizes and where each of its clusters lies.
    :param state: memory and devices of the machine; of nothing in disks without them.
    :param data: what the disk held, "" if nobody read it.
    """

    tables: str
    state: str
    data: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """From a record; raises KeyError."""
        return cls(str(value["tables"]), str(value["state"]), str(value["data"]))


def snapshot_sums(file: Path, tag: str, *, data: bool) -> SnapshotSums:
    """Read the snapshot called ``tag``; with ``data`` also what the disk held.

    Raises :class:`DamagedImage`, OSError.
    """
    with file.open("rb", buffering=0) as stream:
        image = _Image(stream.fileno(), file)
        snapshot = image.snapshot(tag)
        tables = xxhash.xxh3_128(repr((snapshot.l1_size, snapshot.disk, snapshot.state)))
        disk, state = image.extents(snapshot, tables.update)
        return SnapshotSums(
            tables.hexdigest(), image.digest(state), image.digest(disk) if data else ""
        )


def is_at_snapshot(file: Path, tag: str) -> bool:
    """Whether the disk holds what it held when the snapshot called ``tag`` was made.

    Its tables are the snapshot's own then: a write, whoever it is by, gets others. Raises
    :class:`DamagedImage`, OSError.
    """
    with file.open("rb", buffering=0) as stream:
        image = _Image(stream.fileno(), file)
        return image.is_at(image.snapshot(tag))


@dataclasses.dataclass(frozen=True, slots=True)
class _Snapshot:
    """An entry of the table of snapshots; sizes in bytes, but for the L1's entries."""

    l1: int
    l1_size: int
    disk: int
    state: int


_Extents = list[tuple[int, int]]


class _Image:
    """The tables of an image; every place in them is checked against the file's size."""

    def __init__(self, fd: int, file: Path) -> None:
        self._fd, self._file = fd, file
        self._size = os.fstat(fd).st_size
        header = self._read(0, 104, at_least=72)
        magic, version, _, _, bits, disk, _, size, l1, _, _, count, table = _HEADER.unpack_from(
            header
        )
        if magic != _MAGIC or version not in (2, 3):
            raise self._damaged("it is no qcow2 image")
        (features,) = struct.unpack_from(">Q", header, 72) if version == 3 else (0,)
        if features & ~_KNOWN_FEATURES or not 9 <= bits <= 21 or count > _MAX_SNAPSHOTS:
            raise self._damaged("its header is not understood")
        self._cluster, self._disk = 1 << bits, disk
        self._words = 2 if features & _EXTENDED_L2 else 1
        self._count, self._table = count, table
        self._active = _Snapshot(l1, size, disk, 0)

    def _damaged(self, why: str) -> DamagedImage:
        return DamagedImage(f"{self._file} is damaged: {why}")

    def _read(self, place: int, size: int, *, at_least: int | None = None) -> bytes:
        content = os.pread(self._fd, size, place) if place < self._size else b""
        if len(content) < (size if at_least is None else at_least):
            raise self._damaged("a table lies behind its end")
        return content

    def snapshot(self, tag: str) -> _Snapshot:
        """The first snapshot of that name, which is QEMU's rule too."""
        place = self._table
        for _ in range(self._count):
            fixed = self._read(place, _ENTRY.size)
            l1, l1_size, id_len, name_len, _, _, _, state, extra_len = _ENTRY.unpack(fixed)
            if extra_len > _MAX_EXTRA:
                raise self._damaged("its table of snapshots is not understood")
            rest = self._read(place + _ENTRY.size, extra_len + id_len + name_len)
            if rest[extra_len + id_len :] == tag.encode():
                # version 3 has the sizes with 64 bits
                if extra_len >= 8:
                    (state,) = struct.unpack_from(">Q", rest)
                (disk,) = struct.unpack_from(">Q", rest, 8) if extra_len >= 16 else (self._disk,)
                return _Snapshot(l1, l1_size, disk, state)
            place += (_ENTRY.size + len(rest) + 7) & ~7
        raise DamagedImage(f"{self._file} does not hold its snapshot any more")

    def is_at(self, snapshot: _Snapshot) -> bool:
        """Whether the disk's table is a snapshot's, but for what lies behind the disk's end."""
        if self._active.disk != snapshot.disk:
            return False
        of_disk = 8 * self._first_of_state(snapshot)
        now, then = (self._l1(one, lambda _: None) for one in (self._active, snapshot))
        return now.tobytes()[:of_disk] == then.tobytes()[:of_disk]

    def _first_of_state(self, snapshot: _Snapshot) -> int:
        """The first entry of a table that is not the disk's."""
        per_table = self._cluster // (8 * self._words) * self._cluster
        return int(-(-snapshot.disk // per_table))

    def _l1(self, snapshot: _Snapshot, table_seen: Callable[[bytes], object]) -> array[int]:
        if snapshot.l1_size * 8 > _MAX_L1:
            raise self._damaged("a table of its snapshot is too big")
        return self._entries(self._read(snapshot.l1, snapshot.l1_size * 8), table_seen)

    def extents(
        self, snapshot: _Snapshot, table_seen: Callable[[bytes], object]
    ) -> tuple[_Extents, _Extents]:
        """Places and sizes of the clusters of the disk, and of the machine's state."""
        l1 = self._l1(snapshot, table_seen)
        first_of_state = self._first_of_state(snapshot)
        # each cluster is referred to once in a snapshot: more of them than the file has
        # room for is damage, and would take for ever
        left = self._size // self._cluster + 1
        disk: _Extents = []
        state: _Extents = []
        for index, entry in enumerate(l1):
            if not entry & _PLACE:
                continue
            table = self._entries(self._read(entry & _PLACE, self._cluster), table_seen)
            found = disk if index < first_of_state else state
            left -= 1
            for extent in self._clusters(table):
                left -= extent[1] == self._cluster
                _append(found, extent)
            if left < 0:
                raise self._damaged("its snapshot has more clusters than the file")
        return disk, state

    @staticmethod
    def _entries(table: bytes, table_seen: Callable[[bytes], object]) -> array[int]:
        masked = bytearray(table)
        masked[::8] = masked[::8].translate(_CLEAR_COPIED)
        seen = bytes(masked)
        table_seen(seen)
        entries = array("Q", seen)
        if sys.byteorder == "little":
            entries.byteswap()
        return entries

    def _clusters(self, table: array[int]) -> Iterator[tuple[int, int]]:
        """The data that a table leads to, in the order of the guest's addresses."""
        split = 62 - (self._cluster.bit_length() - 9)
        for entry in table[:: self._words]:
            if entry & _COMPRESSED:
                place = entry & (1 << split) - 1
                sectors = (entry & _COMPRESSED - 1) >> split
                yield self._extent(place, (sectors + 1) * 512 - place % 512)
            elif entry & _PLACE and not (entry & _ZERO and self._words == 1):
                yield self._extent(entry & _PLACE, self._cluster)

    def _extent(self, place: int, size: int) -> tuple[int, int]:
        if place >= self._size:
            raise self._damaged("data of its snapshot lie behind its end")
        return place, size

    def digest(self, extents: Iterable[tuple[int, int]]) -> str:
        """Checksum of data; the last cluster may reach behind the file's end, with zeros."""
        digest = xxhash.xxh3_128()
        buffer = memoryview(bytearray(_CHUNK))
        for place, size in extents:
            for start in range(place, place + size, _CHUNK):
                part = buffer[: min(_CHUNK, place + size - start)]
                done = os.preadv(self._fd, [part], start)
                digest.update(part[:done])
                digest.update(bytes(len(part) - done))
        return digest.hexdigest()


def _append(extents: _Extents, new: tuple[int, int]) -> None:
    """Add an extent; one that goes on where the last one ends makes that longer."""
    place, size = new
    if extents and sum(extents[-1]) == place:
        extents[-1] = (extents[-1][0], extents[-1][1] + size)
    else:
        extents.append(new)
