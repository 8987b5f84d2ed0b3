# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions of ELF files, by pyelftools."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section, SymbolTableSection
from numpy.typing import NDArray

from sysqcache.attribution.imagescan import limits
from sysqcache.formats.access import AccessStream, RandomAccess
from sysqcache.formats.elf import read_code

_DAMAGE: Final = (
    ELFError, ConstructError, struct.error, ArithmeticError, AssertionError, AttributeError,
    LookupError, MemoryError, OSError, RecursionError, TypeError, ValueError,
)  # fmt: skip
"""What pyelftools does with headers that make no sense."""

_FUNCTION: Final = (2, 10)
"""STT_FUNC and STT_GNU_IFUNC."""

_NARROW: Final = [
    ("name", "u4"), ("value", "u4"), ("size", "u4"),
    ("info", "u1"), ("other", "u1"), ("section", "u2"),
]  # fmt: skip
_WIDE: Final = [
    ("name", "u4"), ("info", "u1"), ("other", "u1"), ("section", "u2"),
    ("value", "u8"), ("size", "u8"),
]  # fmt: skip
_ALLOC: Final = 2
_EXECUTED: Final = 4

Functions = list[tuple[int, int, str]]
"""Offset, size, name."""


def file_functions(blocks: RandomAccess) -> Functions:
    """Functions of a program or library by their offsets in the file.

    From ``.symtab``, else from ``.dynsym``, which stripped libraries still have.
    """
    code = read_code(blocks)
    if code is None:
        return []
    starts = [(part.address, part.size, part.offset) for part in code.segments]
    functions: Functions = []
    for _, value, size, name in _symbols(blocks):
        for address, length, offset in starts:
            if address <= value < address + length:
                functions.append((value - address + offset, size, name))
                break
    return functions


def module_functions(blocks: RandomAccess) -> Functions:
    """Functions of a kernel module by their offsets in its code in memory."""
    layout = text_layout(blocks)
    return [
        (layout[section] + value, size, name)
        for section, value, size, name in _symbols(blocks)
        if section in layout
    ]


def text_layout(blocks: RandomAccess) -> dict[int, int]:
    """Where each code section of a kernel module lies in its code in memory, bytes.

    The kernel puts them one behind the other in the order of the file, each aligned as
    it asks for; what runs only once lies elsewhere: layout_sections() in
    kernel/module/main.c.
    """
    layout: dict[int, int] = {}
    end = 0
    try:
        for number, section in enumerate(_elf(blocks).iter_sections()):
            wanted = _ALLOC | _EXECUTED
            if section["sh_flags"] & wanted != wanted or section.name.startswith(".init"):
                continue
            align = max(1, section["sh_addralign"])
            end = -(-end // align) * align
            layout[number] = end
            end += section["sh_size"]
    except _DAMAGE:
        return {}
    return layout


def _elf(blocks: RandomAccess) -> Any:
    return ELFFile(io.BufferedReader(AccessStream(blocks), 1 << 16))


def _symbols(blocks: RandomAccess) -> Iterator[tuple[int, int, int, str]]:
    """Section, value, size and name of each function; nothing from damaged files."""
    try:
        elf = _elf(blocks)
        table = elf.get_section_by_name(".symtab") or elf.get_section_by_name(".dynsym")
        if not isinstance(table, SymbolTableSection):
            return
        rows = _rows(elf, table)
        strings = _content(table.stringtable)
    except _DAMAGE:
        return
    for row in rows.tolist():
        start, value, size, section = row
        end = strings.find(b"\0", start)
        if start < end <= start + limits.PATH_BYTES:
            yield section, value, size, strings[start:end].decode("utf-8", "replace")


def _rows(elf: Any, table: Section) -> NDArray[Any]:
    """Symbols of functions that the file defines: an object for each would take seconds."""
    fields = _WIDE if elf.elfclass == 64 else _NARROW
    order = "<" if elf.little_endian else ">"
    shape = np.dtype([(name, order + kind) for name, kind in fields])
    content = _content(table)[: limits.SYMBOLS * shape.itemsize]
    rows = np.frombuffer(content[: len(content) // shape.itemsize * shape.itemsize], shape)
    wanted = np.isin(rows["info"] & 15, _FUNCTION) & (rows["section"] != 0)
    found: NDArray[Any] = rows[wanted][["name", "value", "size", "section"]]
    return found


def _content(section: Any) -> bytes:
    if section["sh_size"] > limits.SYMBOL_FILE_BYTES:
        raise ValueError("the section is too large")
    content: bytes = section.data()
    return content
