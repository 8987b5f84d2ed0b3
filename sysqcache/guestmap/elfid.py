# SPDX-License-Identifier: GPL-2.0-or-later
"""The build id of an ELF file of which only some pages can be read.

pyelftools wants a whole, seekable, well-formed file. Here the file is what the guest's
page cache holds of it, so this parser reads two places and trusts nothing.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from typing import Final

from sysqcache.formats.elf import notes_build_id
from sysqcache.guestmap import limits

Reader = Callable[[int, int], bytes | None]
"""``read(offset, size)``: file bytes, or None when they are not in memory."""

_PT_NOTE: Final = 4
_HEADER: Final = 64


@dataclasses.dataclass(frozen=True, slots=True)
class _Class:
    """What differs between 32-bit and 64-bit files."""

    program_at: str
    program_at_offset: int
    count_offset: int
    entry: str
    offset: int
    size: int


_CLASSES: Final = {
    1: _Class("I", 28, 42, "IIIIIIII", 1, 4),
    2: _Class("Q", 32, 54, "IIQQQQQQ", 2, 5),
}


def build_id(read: Reader) -> str:
    """The GNU build id in lower-case hex, "" when there is none that can be read."""
    header = read(0, _HEADER)
    if header is None or len(header) < _HEADER or header[:4] != b"\x7fELF":
        return ""
    kind = _CLASSES.get(header[4])
    order = {1: "<", 2: ">"}.get(header[5])
    if kind is None or order is None:
        return ""
    (table,) = struct.unpack_from(order + kind.program_at, header, kind.program_at_offset)
    size, count = struct.unpack_from(order + "HH", header, kind.count_offset)
    entry = struct.Struct(order + kind.entry)
    if size != entry.size or count > limits.ELF_PROGRAM_HEADERS:
        return ""
    headers = read(table, size * count)
    if headers is None or len(headers) < size * count:
        return ""
    for fields in entry.iter_unpack(headers):
        if fields[0] != _PT_NOTE:
            continue
        offset, length = (
            (fields[1], fields[4]) if kind.program_at == "I" else (fields[2], fields[5])
        )
        found = notes_build_id(read(offset, min(length, limits.ELF_NOTE_BYTES)) or b"", order)
        if found:
            return found
    return ""
