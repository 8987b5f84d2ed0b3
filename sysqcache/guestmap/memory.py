# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading guest memory by physical and by kernel virtual address, with limits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from sysqcache.guestmap import limits

PAGE: Final = 4096
_CHECK_EVERY: Final = 1024


class UnreadableError(Exception):
    """No memory at an address, or none that makes sense; stays inside this package."""


class UnknownShapeError(UnreadableError):
    """This kernel has not what the walks look for: its structures are none that are known."""


class NoTypesError(UnreadableError):
    """A kernel that does not describe its structures; stays inside this package."""


class ExhaustedError(Exception):
    """A limit of :mod:`.limits` was reached; stays inside this package."""


class PhysicalMemory(Protocol):
    """Guest memory by guest-physical address."""

    def read_physical(self, address: int, size: int) -> bytes:
        """Exactly ``size`` bytes; raises :class:`UnreadableError`."""


class Translation(Protocol):
    """Kernel virtual addresses of one guest."""

    def physical(self, address: int, read: Callable[[int, int], bytes]) -> int:
        """The guest-physical address; raises :class:`UnreadableError`.

        ``read`` reads page tables by physical address.
        """


class Budget:
    """What one map may cost; :meth:`spend` raises :class:`ExhaustedError` beyond."""

    def __init__(self, seconds: float = limits.MAP_SECONDS, reads: int = limits.MAP_READS) -> None:
        self._deadline = time.thread_time() + seconds
        self._left = reads
        self._countdown = _CHECK_EVERY

    def spend(self) -> None:
        """Count one read."""
        self._countdown -= 1
        if self._countdown:
            return
        self._countdown = _CHECK_EVERY
        self.check()

    def check(self) -> None:
        """Look at the clock now."""
        self._left -= _CHECK_EVERY
        if self._left < 0 or time.thread_time() > self._deadline:
            raise ExhaustedError("reading the guest took too long")


class GuestMemory:
    """Guest memory through whole pages that are read once.

    Structures that lie close together cost one read of QEMU's memory, and a page that
    the running guest changes meanwhile is seen in one state. Every method raises
    :class:`UnreadableError` for addresses that lead nowhere.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        translation: Translation | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._memory = memory
        self._translation = translation
        self.budget = budget or Budget()
        """Limits of everything that reads through this object."""
        self._pages: dict[int, bytes] = {}
        self._virtual: dict[int, int] = {}

    def page(self, address: int) -> bytes:
        """The physical page at ``address``, a multiple of :data:`PAGE`."""
        self.budget.spend()
        page = self._pages.get(address)
        if page is None:
            page = self._memory.read_physical(address, PAGE)
            if len(self._pages) >= limits.CACHED_PAGES:
                self._pages.clear()
            self._pages[address] = page
        return page

    def physical(self, address: int, size: int) -> bytes:
        """``size`` bytes at a physical address, through cached pages."""
        first, start = address & ~(PAGE - 1), address & (PAGE - 1)
        if start + size <= PAGE:
            return self.page(first)[start : start + size]
        if size > limits.BULK_BYTES:
            raise UnreadableError(f"{size} bytes at {address:#x}: too many")
        last = (address + size - 1) & ~(PAGE - 1)
        joined = b"".join(self.page(page) for page in range(first, last + 1, PAGE))
        return joined[start : start + size]

    def bulk_physical(self, address: int, size: int) -> bytes:
        """``size`` bytes at a physical address, uncached: for big arrays."""
        self.budget.check()
        if not 0 <= size <= limits.BULK_BYTES:
            raise UnreadableError(f"{size} bytes at {address:#x}: too many")
        return self._memory.read_physical(address, size)

    def translate(self, address: int) -> int:
        """The physical address of a kernel virtual one."""
        page = address >> 12
        known = self._virtual.get(page)
        if known is None:
            if self._translation is None:
                raise UnreadableError("no kernel, no virtual addresses")
            known = self._translation.physical(page << 12, self.physical)
            if len(self._virtual) >= limits.CACHED_PAGES:
                self._virtual.clear()
            self._virtual[page] = known
        return known | (address & (PAGE - 1))

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes at a kernel virtual address, through cached pages."""
        start = address & (PAGE - 1)
        if start + size <= PAGE:
            return self.page(self.translate(address - start))[start : start + size]
        if size > limits.BULK_BYTES:
            raise UnreadableError(f"{size} bytes at {address:#x}: too many")
        parts = []
        while size > 0:
            take = min(size, PAGE - (address & (PAGE - 1)))
            parts.append(self.read(address, take))
            address += take
            size -= take
        return b"".join(parts)

    def bulk(self, address: int, size: int) -> bytes:
        """``size`` bytes at a kernel virtual address, uncached, in as few reads as possible."""
        if not 0 <= size <= limits.BULK_BYTES:
            raise UnreadableError(f"{size} bytes at {address:#x}: too many")
        parts: list[bytes] = []
        end = address + size
        while address < end:
            start = self.translate(address)
            run = min(end, (address | (PAGE - 1)) + 1) - address
            while address + run < end and self._follows(start, address, run):
                run = min(end - address, run + PAGE)
            parts.append(self.bulk_physical(start, run))
            address += run
        return b"".join(parts)

    def _follows(self, start: int, address: int, run: int) -> bool:
        try:
            return self.translate(address + run) == start + run
        except UnreadableError:
            return False

    def u64(self, address: int) -> int:
        """An unsigned 64-bit number, or a pointer."""
        return int.from_bytes(self.read(address, 8), "little")

    def u32(self, address: int) -> int:
        """An unsigned 32-bit number."""
        return int.from_bytes(self.read(address, 4), "little")

    def string(self, address: int, limit: int = limits.NAME_BYTES) -> str:
        """A string that ends with a zero byte, at most ``limit`` bytes of it."""
        take = min(limit, PAGE - (address & (PAGE - 1)))
        text = self.read(address, take)
        if b"\0" not in text and take < limit:
            text += self.read(address + take, limit - take)
        return text.partition(b"\0")[0].decode("utf-8", "backslashreplace")
