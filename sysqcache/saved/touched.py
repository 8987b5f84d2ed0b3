# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages of a template's memory a resumed machine has touched.

The guest's memory is a private mapping of the template's file: a page that was read is
mapped from the file, one that was written to is a copy of its own. The kernel tells which is
which (Documentation/admin-guide/mm/pagemap.rst in its source). The next resume gives the
list to the engine, which touches the same pages ahead of the guest; the format is that of
``TbCacheTouched`` in engine/src/accel/tcg/tb-cache-format.h.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

MAGIC: Final = b"sqctouch"
WRITTEN: Final = 0x80000000
MAX_WRITTEN: Final = 256 << 20
"""Bytes that are copied ahead at most: more is no beginning, but a life."""

_PAGE_BITS: Final = 12
_ENTRY: Final = np.dtype("<u4")
_PRESENT: Final = np.uint64(1 << 63)
_SWAPPED: Final = np.uint64(1 << 62)
_OF_FILE: Final = np.uint64(1 << 61)

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Mapping:
    """Bytes ``start`` to ``end`` of a process are those of a file from ``offset`` on."""

    start: int
    end: int
    offset: int


def mappings(maps: str, file: Path) -> Iterator[Mapping]:
    """The lines of ``/proc/PID/maps`` that map ``file``."""
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == str(file):
            start, end = (int(part, 16) for part in fields[0].split("-"))
            yield Mapping(start, end, int(fields[2], 16))


def runs(mask: Mask) -> npt.NDArray[np.int64]:
    """Of each row of true values the first index and the length, shape (n, 2)."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    bounds = edges.reshape(-1, 2)
    return np.stack([bounds[:, 0], bounds[:, 1] - bounds[:, 0]], axis=1)


def encode(read: Mask, written: Mask) -> bytes:
    """The list of pages for the engine, those to read first: they take the least time.

    :param read: a value a page of 4 KiB; so ``written``, of which ``MAX_WRITTEN`` are kept.
    """
    allowed = written & (np.cumsum(written) <= MAX_WRITTEN >> _PAGE_BITS)
    entries = [runs(read & ~written), runs(allowed) + np.array([0, WRITTEN])]
    return MAGIC + np.concatenate(entries).astype(_ENTRY).tobytes()


def observe(pid: int, file: Path, offset: int, size: int) -> bytes:
    """What a process has touched of the ``size`` bytes of memory at ``offset`` of ``file``.

    Raises OSError when the kernel does not tell.
    """
    read = np.zeros(size >> _PAGE_BITS, dtype=np.bool_)
    written = np.zeros_like(read)
    maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="surrogateescape")
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
        for mapping in mappings(maps, file):
            flags = _flags(pagemap, mapping)
            first = (mapping.offset - offset) >> _PAGE_BITS
            inside = slice(max(first, 0), max(first + len(flags), 0))
            flags = flags[max(-first, 0) :][: len(read[inside])]
            inside = slice(inside.start, inside.start + len(flags))
            of_file = (flags & _OF_FILE) != 0
            read[inside] |= ((flags & _PRESENT) != 0) & of_file
            written[inside] |= ((flags & (_PRESENT | _SWAPPED)) != 0) & ~of_file
    return encode(read, written)


def _flags(pagemap: Any, mapping: Mapping) -> npt.NDArray[np.uint64]:
    """One value a page: flags in the top bits."""
    pages = (mapping.end - mapping.start) >> _PAGE_BITS
    pagemap.seek((mapping.start >> _PAGE_BITS) * 8)
    return np.frombuffer(pagemap.read(pages * 8), dtype="<u8")
