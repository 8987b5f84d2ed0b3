# SPDX-License-Identifier: GPL-2.0-or-later
"""What has to be known of an ELF file: its code, its build id, and nothing more.

pyelftools reads the section names of each file that it opens and makes objects of all
it finds, forty times as slow as these few headers; it reads the symbols
(``imagescan/elfsymbols.py``), where its knowledge is needed.
"""

from __future__ import annotations

import dataclasses
import re
import struct
from collections.abc import Iterator
from typing import Final

from sysqcache.formats.access import RandomAccess

MAGIC: Final = b"\x7fELF"
HEAD: Final = 4096
"""Bytes that are read at once; the headers and notes of nearly all files lie there."""

PROGRAM_HEADERS: Final = 128
"""Most that a file may have; a limit, as what a file says may be made to hurt."""

_SECTIONS: Final = 65_536
_NOTE_BYTES: Final = 64 << 10
_BUILD_ID_BYTES: Final = 64
_PT_LOAD: Final = 1
_PT_NOTE: Final = 4
_PF_X: Final = 1
_SHT_NOTE: Final = 7
_NT_BUILD_ID: Final = 3
_ET_REL: Final = 1
BUILD_ID_NOTE: Final = re.compile(rb"\x04\0\0\0([\x08-\x40])\0\0\0\x03\0\0\0GNU\0", re.DOTALL)
"""A note whose description, of as many bytes as the group says, is a build id."""


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """Executable bytes of a file: where they lie in it, and their virtual address."""

    offset: int
    size: int
    address: int


@dataclasses.dataclass(frozen=True, slots=True)
class ElfCode:
    """The code of an ELF file.

    :param build_id: lower-case hex, "" when the file has none.
    :param relocatable: an object file, as kernel modules are: it has no segments.
    """

    build_id: str
    segments: tuple[Segment, ...]
    relocatable: bool
    machine: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Class:
    """Where the fields of 32-bit and of 64-bit files are."""

    tables: tuple[str, int]
    counts: int
    program: str
    """kind, flags, offset, virtual address, size in the file: places in the entry."""
    program_fields: tuple[int, int, int, int, int]
    section: str
    """kind, offset, size."""
    section_fields: tuple[int, int, int]


_CLASSES: Final = {
    1: _Class(("II", 28), 42, "IIIIIIII", (0, 6, 1, 2, 4), "IIIIIIIIII", (1, 4, 5)),
    2: _Class(("QQ", 32), 54, "IIQQQQQQ", (0, 1, 2, 3, 5), "IIQQQQIIQQ", (1, 4, 5)),
}


def read_code(file: RandomAccess, head: bytes = b"") -> ElfCode | None:
    """The code of a file; None when it is not ELF or its headers make no sense.

    :param head: the file's first bytes, when they were read already.
    """
    head = head or file.read(0, HEAD)
    kind = _CLASSES.get(head[4]) if len(head) >= 64 else None
    order = {1: "<", 2: ">"}.get(head[5]) if kind else None
    if kind is None or order is None or head[:4] != MAGIC:
        return None
    file_type, machine = struct.unpack_from(order + "HH", head, 16)
    programs, sections = struct.unpack_from(order + kind.tables[0], head, kind.tables[1])
    counts = struct.unpack_from(order + "HHHH", head, kind.counts)
    read = _Head(file, head)
    segments: list[Segment] = []
    build_id = ""
    for entry in _table(read, programs, counts[0], counts[1], order + kind.program):
        what, flags, offset, address, size = (entry[place] for place in kind.program_fields)
        if what == _PT_LOAD and flags & _PF_X and offset < file.size:
            segments.append(Segment(offset, min(size, file.size - offset), address))
        elif what == _PT_NOTE and not build_id:
            build_id = notes_build_id(read.read(offset, min(size, _NOTE_BYTES)), order)
    if not build_id and file_type == _ET_REL:
        build_id = _section_build_id(read, sections, counts[2:4], order, kind)
    return ElfCode(build_id, tuple(segments), file_type == _ET_REL, machine)


class _Head:
    """A file whose first bytes are there already."""

    def __init__(self, file: RandomAccess, head: bytes) -> None:
        self._file = file
        self._head = head

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the file."""
        if offset + size <= len(self._head):
            return self._head[offset : offset + size]
        return self._file.read(offset, size)


def _table(
    file: _Head, offset: int, size: int, count: int, entry: str, most: int = PROGRAM_HEADERS
) -> Iterator[tuple[int, ...]]:
    """Entries of a header table, none when their size is not the one of the format."""
    shape = struct.Struct(entry)
    if size != shape.size or count > most:
        return
    content = file.read(offset, size * count)
    yield from shape.iter_unpack(content[: len(content) // size * size])


def _section_build_id(
    file: _Head, offset: int, shape: tuple[int, ...], order: str, kind: _Class
) -> str:
    size, count = shape
    for entry in _table(file, offset, size, count, order + kind.section, _SECTIONS):
        what, start, length = (entry[place] for place in kind.section_fields)
        if what == _SHT_NOTE:
            notes = file.read(start, min(length, _NOTE_BYTES))
            if found := notes_build_id(notes, order):
                return found
    return ""


def notes_build_id(notes: bytes, order: str = "<") -> str:
    """The GNU build id among ELF notes, "" when there is none."""
    shape = struct.Struct(order + "III")
    place = 0
    while place + shape.size <= len(notes):
        name_size, size, kind = shape.unpack_from(notes, place)
        name = place + shape.size
        value = name + (name_size + 3 & ~3)
        if kind == _NT_BUILD_ID and notes[name : name + name_size] == b"GNU\0":
            found = notes[value : value + size]
            good = 0 < size <= _BUILD_ID_BYTES and len(found) == size
            return found.hex() if good else ""
        place = value + (size + 3 & ~3)
    return ""


def find_build_id(content: bytes) -> str:
    """A build id somewhere in a piece of a little-endian file, "" when there is none.

    For compressed kernel modules: the sections that say where it is come last, the build
    id itself long before that, so that only some of the file has to be unpacked.
    """
    found = BUILD_ID_NOTE.search(content)
    if not found:
        return ""
    value = content[found.end() : found.end() + found[1][0]]
    return value.hex() if len(value) == found[1][0] else ""
