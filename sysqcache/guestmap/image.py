# SPDX-License-Identifier: GPL-2.0-or-later
"""The bytes of a running kernel's image, searched for what its symbol table lacks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from sysqcache.guestmap import limits
from sysqcache.guestmap.memory import Budget, GuestMemory, UnreadableError

if TYPE_CHECKING:
    from sysqcache.guestmap.space import AddressSpace

_CHUNK: Final = 4 << 20


class KernelImage:
    """Read-only and variable data of the image, in pieces without holes.

    ``pieces`` are (virtual address, bytes), ascending; each begins at a page. Searches
    give no more than :data:`.limits.SEARCH_HITS` places unless they say so, as a hostile
    guest may hold as many as it likes.
    """

    def __init__(self, pieces: Collection[tuple[int, bytes]], budget: Budget) -> None:
        self.pieces = tuple(pieces)
        self._budget = budget

    @classmethod
    def read(cls, memory: GuestMemory, translation: AddressSpace, start: int) -> KernelImage:
        """What is mapped of the image from ``start`` on, the end of its code.

        Reads at most :data:`.limits.IMAGE_BYTES`. Raises :class:`UnreadableError` when
        nothing is there.
        """
        pieces: list[tuple[int, list[bytes]]] = []
        left, place = limits.IMAGE_BYTES, -1
        for first, physical, mapped in _runs(memory, translation, start):
            size = min(mapped, left)
            try:
                data = memory.bulk_physical(physical, size)
            except UnreadableError:
                continue
            if place == first:
                pieces[-1][1].append(data)
            else:
                pieces.append((first, [data]))
            place = first + size
            left -= size
            if left <= 0:
                break
        if not pieces:
            raise UnreadableError("the kernel's image can't be read")
        return cls([(first, b"".join(parts)) for first, parts in pieces], memory.budget)

    @property
    def bounds(self) -> tuple[int, int]:
        """Start of the first and end of the last piece."""
        start, data = self.pieces[-1]
        return self.pieces[0][0], start + len(data)

    def holds(self, address: int) -> bool:
        """True for an address in one of the pieces."""
        return any(start <= address < start + len(data) for start, data in self.pieces)

    def at(self, address: int, size: int) -> bytes:
        """``size`` bytes, fewer at the end of a piece, none outside."""
        for start, data in self.pieces:
            if start <= address < start + len(data):
                return data[address - start : address - start + size]
        return b""

    def find(self, pattern: bytes, limit: int = limits.SEARCH_HITS) -> Iterator[int]:
        """Addresses of a byte string."""
        for start, data in self.pieces:
            place = data.find(pattern)
            while place >= 0:
                self._budget.check()
                yield start + place
                limit -= 1
                if limit <= 0:
                    return
                place = data.find(pattern, place + 1)

    def words(self, test: Callable[[NDArray[np.uint64]], NDArray[np.bool_]]) -> Iterator[int]:
        """Addresses of aligned 64-bit words for which ``test`` is true, without a limit.

        ``test`` gets an array of shape (n,) and gives one of the same shape.
        """
        for start, chunk in self._chunks():
            words = np.frombuffer(chunk, "<u8", len(chunk) // 8)
            for row in np.flatnonzero(test(words)).tolist():
                yield start + 8 * row

    def references(self, targets: Collection[int], *, relative: bool) -> Iterator[tuple[int, int]]:
        """(address, target) of aligned words that lead to a target.

        :param relative: they are 32-bit distances from their own place, 64-bit addresses else.
        """
        left, width = dict.fromkeys(targets, limits.SEARCH_HITS), 4 if relative else 8
        for start, chunk in self._chunks():
            ends = _distances(chunk) if relative else _addresses(chunk, start)
            for target, count in left.items():
                rows = np.flatnonzero(ends == target - start)[:count].tolist()
                left[target] -= len(rows)
                for row in rows:
                    yield start + width * row, target

    def _chunks(self) -> Iterator[tuple[int, bytes]]:
        for start, data in self.pieces:
            for place in range(0, len(data), _CHUNK):
                self._budget.check()
                yield start + place, data[place : place + _CHUNK]


def _distances(chunk: bytes) -> NDArray[np.int64]:
    """Where 32-bit distances lead, counted from the chunk's start."""
    words = np.frombuffer(chunk, "<i4", len(chunk) // 4)
    return words + 4 * np.arange(len(words), dtype=np.int64)


def _addresses(chunk: bytes, start: int) -> NDArray[np.int64]:
    """The same of 64-bit addresses; the chunk's own is ``start``."""
    words = np.frombuffer(chunk, "<u8", len(chunk) // 8)
    return (words - np.uint64(start)).view(np.int64)


def _runs(
    memory: GuestMemory, translation: AddressSpace, start: int
) -> Iterator[tuple[int, int, int]]:
    """(virtual address, physical address, size) of what is mapped of the image."""
    run = (start, 0, 0)
    end = min(translation.image[1], start + 2 * limits.IMAGE_BYTES)
    for mapped in translation.sweep(start, end, memory.physical):
        if mapped.physical != translation.image_physical(mapped.virtual):
            continue  # modules and others may lie behind the image
        # a big page may begin before the start
        skip = max(0, start - mapped.virtual)
        first, physical, size = mapped.virtual + skip, mapped.physical + skip, mapped.size - skip
        if (first, physical) == (run[0] + run[2], run[1] + run[2]):
            run = (run[0], run[1], run[2] + size)
        else:
            yield from _pieces(run)
            run = (first, physical, size)
    yield from _pieces(run)


def _pieces(run: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
    """A run in pieces of which each can be read at once."""
    start, physical, size = run
    for place in range(0, size, limits.BULK_BYTES):
        yield start + place, physical + place, min(limits.BULK_BYTES, size - place)
