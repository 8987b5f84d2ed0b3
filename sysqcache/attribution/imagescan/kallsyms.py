# SPDX-License-Identifier: GPL-2.0-or-later
"""The symbol table that a kernel carries for itself, found in an unpacked kernel file.

Distributions strip vmlinux and ship no System.map, but a kernel with CONFIG_KALLSYMS has
its functions' names in its read-only data, packed as scripts/kallsyms.c of the kernel
does it. Nothing in the file says where, so the parts are known by their form.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sysqcache.attribution.imagescan import limits
from sysqcache.attribution.imagescan.kernelfile import KernelFile

_TOKENS: Final = 256
_DIGITS: Final = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00"
"""Digits are so frequent in names that each stays a token of its own, in this order."""

_MARKED: Final = 256
"""Each of so many names has a marker, which is where it begins."""

_TOKENS_BYTES: Final = 16 << 10
_FEWEST: Final = 2 * _MARKED
_FLAT_HEAD: Final = 64 << 10
"""Bytes in front of the code of flat images: arm64 has 64 KiB, RISC-V a page or two."""

_PAGE: Final = 4096
_TEXT_BYTES: Final = (b"t", b"T", b"w", b"W")


def kernel_functions(kernel: KernelFile) -> list[tuple[int, int, str]]:
    """Offset in the image, 0 and name of each function; empty when no table is found.

    Raises KernelFileError when the kernel is not unpacked.
    """
    image = kernel.loaded(0)
    most = _FLAT_HEAD if kernel.flat else 0
    content = image.tobytes()
    place = content.find(_DIGITS)
    while place >= 0:
        found = _Table(image, content, place, most).functions(kernel.text_address)
        if found:
            return found
        place = content.find(_DIGITS, place + 1)
    return []


class _Table:
    """The parts of the table whose list of tokens has its digits at ``digits``.

    ``most`` is how far behind the image's first byte its code may begin.
    """

    def __init__(
        self, image: NDArray[np.uint8], content: bytes, digits: int, most: int = 0
    ) -> None:
        self._image = image
        self._content = content
        self._digits = digits
        self._most = most

    def functions(self, text: int) -> list[tuple[int, int, str]]:
        """Offset, 0 and name of each function; ``text`` is the address of the image."""
        index = self._find_index()
        if index is None:
            return []
        places = self._numbers(index, "<u2", _TOKENS)
        start = self._digits - int(places[ord("0")])
        tokens = [self._string(start + int(place)) for place in places]
        found = self._find_names(start)
        if found is None:
            return []
        first, count = found
        names = list(self._names(tokens, first, count))
        for place, offsets, base in self._offset_tables(first, count, index):
            rows = _relative(place, offsets, base - text, names, self._most)
            if rows is not None:
                return [
                    (int(row), 0, name[1:].decode("ascii", "replace"))
                    for row, name in zip(rows, names, strict=True)
                    if name[:1] in _TEXT_BYTES and 0 <= row < len(self._image)
                ]
        return []

    def _numbers(self, place: int, kind: str, count: int) -> NDArray[np.int64]:
        """Numbers at a place; fewer where the image ends."""
        size = np.dtype(kind).itemsize
        raw = self._content[max(place, 0) : max(place, 0) + size * count]
        return np.frombuffer(raw[: len(raw) // size * size], kind).astype(np.int64)

    def _string(self, place: int) -> bytes:
        return self._content[place : self._content.find(b"\0", place)]

    def _find_index(self) -> int | None:
        """Where 256 ascending places of tokens begin, behind the tokens themselves."""
        for place in range(-(-self._digits // 4) * 4, self._digits + _TOKENS_BYTES, 4):
            numbers = self._numbers(place, "<u2", _TOKENS)
            if len(numbers) < _TOKENS:
                return None
            ascends = numbers[0] == 0 and bool((np.diff(numbers) > 0).all())
            start = self._digits - int(numbers[ord("0")])
            if ascends and start + numbers[-1] < place:
                return place
        return None

    def _find_names(self, tokens: int) -> tuple[int, int] | None:
        """Where the names begin, and how many there are.

        In front of the names is their number, behind them are markers, and in some
        versions three bytes for each name; each part is aligned to 8 bytes, since Linux 7.0
        to 4.
        """
        for unit in (8, 4):
            start = max(0, tokens // unit * unit - limits.KALLSYMS_BYTES)
            words = self._numbers(start, f"<u{unit}", (tokens - start) // unit)
            possible = np.flatnonzero((words > _FEWEST) & (words < limits.SYMBOLS))
            for place, count in zip(possible.tolist(), words[possible].tolist(), strict=True):
                first = start + unit * place + unit
                for behind in (0, 3 * count):
                    if self._are_names(first, count, tokens - _aligned(behind, unit), unit):
                        return first, count
        return None

    def _are_names(self, first: int, count: int, end: int, unit: int) -> bool:
        """Whether names at ``first`` fit to markers that end at ``end``, padding included."""
        marks = -(-count // _MARKED)
        place = end - _aligned(4 * marks, unit)
        markers = self._numbers(place, "<u4", marks)
        if place <= first or len(markers) < marks or markers[0] or (np.diff(markers) <= 0).any():
            return False
        if first + markers[-1] >= place or self._skip(first, _MARKED) != first + markers[1]:
            return False
        rest = self._skip(first + int(markers[-1]), count - _MARKED * (marks - 1))
        return _aligned(rest, unit) == place

    def _skip(self, place: int, count: int) -> int:
        """Where the names behind the next ``count`` ones begin."""
        for _ in range(count):
            size, place = self._length(place)
            place += size
            if place >= len(self._content):
                return len(self._content)
        return place

    def _length(self, place: int) -> tuple[int, int]:
        """Length of a name in tokens, and where they begin; two bytes since Linux 6.1."""
        size = self._content[place]
        if size & 0x80 and place + 1 < len(self._content):
            return size & 0x7F | self._content[place + 1] << 7, place + 2
        return size, place + 1

    def _names(self, tokens: list[bytes], place: int, count: int) -> Iterator[bytes]:
        """Names with the letter of their type in front."""
        for _ in range(count):
            size, place = self._length(place)
            yield b"".join([tokens[one] for one in self._content[place : place + size]])
            place += size

    def _offset_tables(
        self, names: int, count: int, index: int
    ) -> Iterator[tuple[int, NDArray[np.int64], int]]:
        """Where offsets and their base may be: before the names, since 6.4 behind the index."""
        size = _aligned(4 * count, 8)
        before = names - 16
        behind = index + 2 * _TOKENS
        for base, offsets in ((before, before - size), (behind + size, behind)):
            if offsets >= 0:
                value = int.from_bytes(self._content[base : base + 8], "little")
                numbers = self._numbers(offsets, "<i4", count)
                if len(numbers) == count:
                    yield offsets, numbers, value


def _aligned(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _relative(
    place: int, offsets: NDArray[np.int64], base: int, names: list[bytes], most: int
) -> NDArray[np.int64] | None:
    """Rows of a table at ``place``, as offsets in the image.

    ``_text`` or ``_stext`` prove it: they are where code begins.

    Kernels with absolute addresses of per-CPU symbols store the others as negative numbers.
    Since Linux 7.0 there is no base, and a row counts from its own place.
    """
    wanted = (b"_text", b"_stext") if most else (b"_text",)
    row = next((row for row, name in enumerate(names) if name[1:] in wanted), None)
    if row is None:
        return None
    forms = [place + 4 * np.arange(len(offsets)) + offsets]
    if abs(base) < 1 << 32:
        forms += [np.where(offsets < 0, base - 1 - offsets, -1), base + (offsets & 0xFFFFFFFF)]
    for rows in forms:
        if 0 <= rows[row] <= most and not rows[row] % _PAGE:
            return rows
    return None
