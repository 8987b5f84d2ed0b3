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
from collections.abc import Callable, Iterator
from typing import Final

from sysqcache.formats.access import RandomAccess

MAGIC: Final = b"\x7fELF"
HEAD: Final = 4096
"""Bytes that are read at once; the headers and notes of nearly all files lie there."""

PROGRAM_HEADERS: Final = 128
"""Most that a file may have; a limit, as what a file says may be made to hurt."""

_HEADER: Final = 64
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
_ORDERS: Final = {1: "<", 2: ">"}


Reader = Callable[[int, int], bytes | None]
"""``read(offset, size)``: bytes of a file, fewer or None where they can't be had."""


def read_code(file: RandomAccess, head: bytes = b"") -> ElfCode | None:
    """The code of a file; None when it is not ELF or its headers make no sense.

    :param head: the file's first bytes, when they were read already.
    """
    head = head or file.read(0, HEAD)
    form = _form(head)
    if form is None:
        return None
    kind, order = form
    file_type, machine = struct.unpack_from(order + "HH", head, 16)

    def read(offset: int, size: int) -> bytes:
        inside = offset + size <= len(head)
        return head[offset : offset + size] if inside else file.read(offset, size)

    segments: list[Segment] = []
    build_id = ""
    for what, flags, offset, address, size in _programs(read, head, PROGRAM_HEADERS):
        if what == _PT_LOAD and flags & _PF_X and offset < file.size:
            segments.append(Segment(offset, min(size, file.size - offset), address))
        elif what == _PT_NOTE and not build_id:
            build_id = notes_build_id(read(offset, min(size, _NOTE_BYTES)), order)
    if not build_id and file_type == _ET_REL:
        build_id = _section_build_id(read, head, order, kind)
    return ElfCode(build_id, tuple(segments), file_type == _ET_REL, machine)


def program_build_id(read: Reader, headers: int, note_bytes: int) -> str:
    """The build id that the program headers of a file lead to, "" when it can't be read.

    For a file of which only some pages can be had, as in a guest's page cache.

    :param headers: most program headers that the file may have, ``note_bytes`` of each note.
    """
    head = read(0, _HEADER) or b""
    for what, _, offset, _, size in _programs(read, head, headers):
        if what == _PT_NOTE:
            notes = read(offset, min(size, note_bytes)) or b""
            if found := notes_build_id(notes, _ORDERS[head[5]]):
                return found
    return ""


def _form(head: bytes) -> tuple[_Class, str] | None:
    """The class and the byte order of a file, None when it is not ELF."""
    if len(head) < _HEADER or head[:4] != MAGIC:
        return None
    kind, order = _CLASSES.get(head[4]), _ORDERS.get(head[5])
    return None if kind is None or order is None else (kind, order)


def _programs(read: Reader, head: bytes, most: int) -> Iterator[list[int]]:
    """Kind, flags, offset, virtual address and size in the file of each program header."""
    form = _form(head)
    if form is None:
        return
    kind, order = form
    place, _ = struct.unpack_from(order + kind.tables[0], head, kind.tables[1])
    shape = struct.unpack_from(order + "HH", head, kind.counts)
    for entry in _table(read, place, shape, order + kind.program, most):
        yield [entry[field] for field in kind.program_fields]


def _table(
    read: Reader, offset: int, shape: tuple[int, ...], entry: str, most: int
) -> Iterator[tuple[int, ...]]:
    """Entries of a header table, none when their size is not the one of the format.

    :param shape: bytes of an entry, and how many there are.
    """
    form = struct.Struct(entry)
    size, count = shape
    if size == form.size and count <= most:
        content = read(offset, size * count) or b""
        yield from form.iter_unpack(content[: len(content) // size * size])


def _section_build_id(read: Reader, head: bytes, order: str, kind: _Class) -> str:
    _, place = struct.unpack_from(order + kind.tables[0], head, kind.tables[1])
    shape = struct.unpack_from(order + "HH", head, kind.counts + 4)
    for entry in _table(read, place, shape, order + kind.section, _SECTIONS):
        what, start, length = (entry[field] for field in kind.section_fields)
        if what == _SHT_NOTE:
            notes = read(start, min(length, _NOTE_BYTES)) or b""
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
