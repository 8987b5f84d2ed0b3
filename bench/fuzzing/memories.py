# SPDX-License-Identifier: GPL-2.0-or-later
"""Memories of guests that were mapped once, damaged in places where a map reads.

Whatever a guest holds, a map of it ends soon, takes little memory, and raises nothing.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.fuzzing.mutations import NUMBERS
from sysqcache.guestmap.flatview import MemoryRange
from sysqcache.guestmap.mapper import map_guest
from sysqcache.guestmap.memory import PAGE, UnreadableError
from sysqcache.guestmap.result import GuestMap
from sysqcache.guestmap.session import Attached
from sysqcache.guestmap.vmcoreinfo import VmcoreInfo

SECONDS: Final = 2.0
"""Processor time that a map of a small guest may take, whatever is in it."""

MEMORY: Final = 512 << 20
"""Bytes by which a map may grow the process that makes it."""

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")
_TIMES: Final = (1, 1, 1, 2, 2, 4, 8, 16, 64)
_NOTE_EVERY: Final = 8
"""One damage in so many is to what the kernel tells of itself."""


class KeptMemory:
    """A guest's memory as it was at one moment, and what it says of itself.

    :param content: of each range, as long as that is.
    """

    paused_ms = 0.0

    def __init__(
        self,
        ranges: tuple[MemoryRange, ...],
        content: list[bytearray],
        target: str,
        info: VmcoreInfo | None,
    ) -> None:
        self.ranges, self.target, self.info = ranges, target, info
        self._content = content
        self._starts = [part.start for part in ranges]
        self._read: set[tuple[int, int]] = set()

    @classmethod
    def of(cls, session: Attached) -> KeptMemory:
        """All that can be read of a guest, which should stand still."""
        ranges, content = list[MemoryRange](), list[bytearray]()
        for part in session.ranges:
            try:
                content.append(bytearray(session.read_physical(part.start, part.end - part.start)))
                ranges.append(part)
            except UnreadableError:
                continue
        return cls(tuple(ranges), content, session.target, session.info)

    def read_physical(self, address: int, size: int) -> bytes:
        """As of a session; places are remembered. Raises :class:`UnreadableError`."""
        part, at = self._place(address)
        if size < 0 or at + size > len(self._content[part]):
            raise UnreadableError(f"no memory at {address:#x}")
        self._read.add((address, size))
        return bytes(memoryview(self._content[part])[at : at + size])

    def _place(self, address: int) -> tuple[int, int]:
        part = bisect.bisect_right(self._starts, address) - 1
        if part < 0 or address >= self.ranges[part].end:
            raise UnreadableError(f"no memory at {address:#x}")
        return part, address - self._starts[part]

    def places(self) -> list[tuple[int, int]]:
        """(address, size) of all that was read since the last call, ascending."""
        found, self._read = sorted(self._read), set()
        return found

    def write(self, address: int, data: bytes) -> bytes:
        """Change memory inside of one page; what was there."""
        part, at = self._place(address)
        before = bytes(self._content[part][at : at + len(data)])
        self._content[part][at : at + len(before)] = data[: len(before)]
        return before


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What a map took: seconds of the processor, and bytes that the process grew by."""

    found: GuestMap
    seconds: float
    grown: int


@contextmanager
def damaged(
    memory: KeptMemory, places: list[tuple[int, int]], rng: random.Random
) -> Iterator[None]:
    """Memory with one to many places changed among those that a map has read."""
    info, before = memory.info, list[tuple[int, bytes]]()
    try:
        for _ in range(rng.choice(_TIMES)):
            if rng.randrange(_NOTE_EVERY) == 0:
                memory.info = _other_note(rng, memory.info)
                continue
            page = _page(rng, places)
            address, data = rng.choice(_DAMAGES)(rng, memory, page, _page(rng, places))
            before.append((address, memory.write(address, data)))
        yield
    finally:
        memory.info = info
        while before:
            memory.write(*before.pop())


def _page(rng: random.Random, places: list[tuple[int, int]]) -> int:
    address, size = rng.choice(places)
    return (address + rng.randrange(max(1, size))) & -PAGE


def _content(memory: KeptMemory, page: int) -> bytes:
    try:
        return memory.read_physical(page, PAGE)
    except UnreadableError:
        return bytes(PAGE)


def _word(rng: random.Random, memory: KeptMemory, page: int) -> tuple[int, int]:
    """(offset, value) of a word in a page, rather of one that is not zero."""
    content = _content(memory, page)
    offset, value = 0, 0
    for _ in range(16):
        offset = rng.randrange(0, PAGE, 8)
        value = int.from_bytes(content[offset : offset + 8], "little")
        if value:
            break
    return offset, value


def _number(rng: random.Random, memory: KeptMemory, page: int, other: int) -> tuple[int, bytes]:
    """A word becomes a number that may hurt, or one near to it."""
    offset, old = _word(rng, memory, page)
    near = old + rng.choice((-4096, -64, -8, -1, 1, 8, 64, 4096, 1 << 32))
    value = rng.choice((rng.choice(NUMBERS), near, old ^ 1 << rng.randrange(64)))
    size = rng.choice((1, 2, 4, 8))
    return page + offset, (value & (1 << 8 * size) - 1).to_bytes(size, "little")


def _pointer(rng: random.Random, memory: KeptMemory, page: int, other: int) -> tuple[int, bytes]:
    """A word becomes one that stands elsewhere: pointers lead to the wrong thing, or back."""
    offset, _ = _word(rng, memory, page)
    _, value = _word(rng, memory, rng.choice((page, other)))
    return page + offset, value.to_bytes(8, "little")


def _row(rng: random.Random, memory: KeptMemory, page: int, other: int) -> tuple[int, bytes]:
    """One word many times: all entries of a table are the same."""
    offset, value = _word(rng, memory, page)
    return page + offset, value.to_bytes(8, "little") * rng.randrange(1, 1 + (PAGE - offset) // 8)


def _other_page(rng: random.Random, memory: KeptMemory, page: int, other: int) -> tuple[int, bytes]:
    content = (_content(memory, other), bytes(PAGE), b"\xff" * PAGE, rng.randbytes(PAGE))
    return page, rng.choice(content)


_Damage = Callable[[random.Random, KeptMemory, int, int], tuple[int, bytes]]
_DAMAGES: Final[tuple[_Damage, ...]] = (
    *(_number, _number, _number, _pointer, _pointer, _pointer, _row, _other_page),
)


def _other_note(rng: random.Random, info: VmcoreInfo | None) -> VmcoreInfo | None:
    """What the kernel tells of itself, with a line that is wrong, or lacks."""
    lines = info.raw.split(b"\n") if info else [b""]
    row = rng.randrange(len(lines))
    name, _, value = lines[row].partition(b"=")
    number = str(rng.choice(NUMBERS)), f"{rng.choice(NUMBERS):x}", value.decode("latin-1")
    other = rng.choice((*number, "-1", "", lines[rng.randrange(len(lines))].decode("latin-1")))
    lines[row : row + 1] = [name + b"=" + other.encode("latin-1")] if rng.randrange(4) else []
    return VmcoreInfo.parse(b"\n".join(lines))


def mapped(memory: Attached) -> Outcome:
    """A map as `map` prints it, and what it took; raises what the map raises."""
    _CLEAR.write_text("5")
    before, started = _peak(), time.thread_time()
    found = map_guest(memory)
    json.dumps(found.to_json()).encode()
    return Outcome(found, time.thread_time() - started, _peak() - before)


def _peak() -> int:
    """The most bytes that this process had in memory since that was forgotten."""
    [line] = [one for one in _STATUS.read_text().splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1]) << 10
