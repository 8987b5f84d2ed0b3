# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of an initial RAM disk: cpio archives one behind the other, some of them packed.

As the kernel's Documentation/driver-api/early-userspace/buffer-format.rst has it: first
there may be an unpacked archive with microcode, zeros between archives do not count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Final

from sysqcache.attribution.imagescan import limits
from sysqcache.attribution.imagescan.unpack import PackedDataError, packing, unpack

_NEWC: Final = (b"070701", b"070702")
_HEADER: Final = 110
_TRAILER: Final = b"TRAILER!!!"


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A regular file; ``offset`` is where its bytes begin in the unpacked archives."""

    path: str
    mode: int
    offset: int
    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class Archive:
    """All archives of an initial RAM disk, unpacked and one behind the other.

    :param entries: its regular files; of two with one name the later one counts.
    :param notes: in words, what of it could not be read.
    """

    content: bytes
    entries: tuple[Entry, ...]
    notes: tuple[str, ...]


def read_archive(data: bytes | memoryview) -> Archive:
    """Unpack an initial RAM disk. Damaged parts become notes."""
    parts: list[bytes] = []
    files: dict[str, Entry] = {}
    notes: list[str] = []
    start = place = 0
    view = memoryview(data)
    while (place := _skip_zeros(view, place)) < len(view):
        part, place, note = _next_part(view, place, limits.ARCHIVE_BYTES - start)
        parts.append(part)
        for entry in _entries(memoryview(part), start):
            files.pop(entry.path, None)
            files[entry.path] = entry
        start += len(part)
        if note:
            notes.append(note)
            break
    return Archive(b"".join(parts), tuple(files.values()), tuple(notes))


def _next_part(view: memoryview, place: int, most: int) -> tuple[bytes, int, str]:
    """One archive or packed part, where it ends, and what is wrong with it."""
    head = bytes(view[place : place + 8])
    if head.startswith(_NEWC):
        end = _archive_end(view, place)
        return bytes(view[place:end]), end, ""
    if not packing(head):
        return b"", len(view), f"unknown bytes at offset {place} of the initrd"
    try:
        part, taken = unpack(view[place:], most)
    except PackedDataError as error:
        return b"", len(view), f"the initrd can't be unpacked: {error}"
    return part, place + taken, ""


def _skip_zeros(view: memoryview, place: int) -> int:
    while place < len(view) and not any(view[place : place + 4096]):
        place += 4096
    while place < len(view) and view[place] == 0:
        place += 1
    return place


def _archive_end(view: memoryview, place: int) -> int:
    """Where the archive that begins at ``place`` ends: behind its trailer."""
    for name, _, start, size in _headers(view, place):
        if name == _TRAILER:
            return start + size
        place = start + size
    return len(view)


def _entries(view: memoryview, start: int) -> Iterator[Entry]:
    for name, mode, place, size in _headers(view, 0):
        if mode & 0xF000 == 0x8000 and name != _TRAILER:
            path = name.decode("utf-8", "surrogateescape").removeprefix("./").lstrip("/")
            yield Entry("/" + path, mode, start + place, size)


def _headers(view: memoryview, place: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Name, mode, place and size of each entry; ends where the archive makes no sense.

    A packed part may hold several archives: their trailers are passed over.
    """
    base = place
    for _ in range(limits.ARCHIVE_ENTRIES):
        header = bytes(view[place : place + _HEADER])
        if len(header) < _HEADER:
            return
        if not header.startswith(_NEWC):
            return
        try:
            fields = [int(header[at : at + 8], 16) for at in range(6, _HEADER, 8)]
        except ValueError:
            return
        if min(fields) < 0:
            return
        mode, size, name_size = fields[1], fields[6], fields[11]
        start = base + _aligned(place - base + _HEADER + name_size)
        if not 0 < name_size <= limits.PATH_BYTES or start + size > len(view):
            return
        name = bytes(view[place + _HEADER : place + _HEADER + name_size - 1])
        yield name, mode, start, size
        place = base + _aligned(start - base + size)
        if name == _TRAILER:
            place = _skip_zeros(view, place)
            base = place


def _aligned(size: int) -> int:
    return size + 3 & ~3
