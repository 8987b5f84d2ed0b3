# SPDX-License-Identifier: GPL-2.0-or-later
"""Files in the guest's page cache: who they are, and their build ids."""

from __future__ import annotations

import numpy as np

from sysqcache.formats.elf import program_build_id
from sysqcache.guestmap import limits
from sysqcache.guestmap.files import FileInfo, Files
from sysqcache.guestmap.guest import Guest
from sysqcache.guestmap.memory import PAGE, ExhaustedError, GuestMemory, UnreadableError
from sysqcache.guestmap.pages import Pages, Use
from sysqcache.guestmap.table import I64, U64, Owner, OwnerKind


class PageCache:
    """Owners of all file pages.

    :attr:`owners` are the files, in the order in which :attr:`owner` counts them.
    :attr:`owner` has a row for each of ``pages``: an index, -1 for pages of no file.
    :attr:`lost` counts address spaces that made no sense.
    """

    def __init__(self, guest: Guest, files: Files, pages: Pages) -> None:
        self._guest = guest
        self._files = files
        self._pages = pages
        self.owners: list[Owner] = []
        self.owner: I64 = np.full(len(pages.page), -1, np.int64)
        self.build_ids: dict[int, str] = {}
        self.lost = 0
        self.cut_short = ""

    def read(self) -> None:
        """Look up all files; after :class:`ExhaustedError` those so far are kept."""
        rows = np.flatnonzero(self._pages.use == Use.FILE)
        # a stable order groups the pages of each file, which then are slices
        rows = rows[np.argsort(self._pages.mapping[rows], kind="stable")]
        mappings, starts = np.unique(self._pages.mapping[rows], return_index=True)
        ends = np.append(starts[1:], len(rows))
        if len(mappings) > limits.FILES:
            self.cut_short = f"only {limits.FILES} of {len(mappings)} files were looked at"
        try:
            for mapping, start, end in zip(
                mappings[: limits.FILES].tolist(), starts.tolist(), ends.tolist(), strict=False
            ):
                self._file(mapping, rows[start:end])
        except ExhaustedError as error:
            self.cut_short = str(error)

    def _file(self, mapping: int, rows: I64) -> None:
        try:
            info = self._info(mapping)
        except UnreadableError:
            self.lost += 1
            return
        found = ""
        if info.is_regular:
            read = CachedFile(self._guest.memory, self._pages, rows).read
            found = program_build_id(read, limits.ELF_PROGRAM_HEADERS, limits.ELF_NOTE_BYTES)
        if found:
            self.build_ids[info.address] = found
        self.owner[rows] = len(self.owners)
        self.owners.append(
            Owner(OwnerKind.FILE, info.path, found, info.inode, info.device, info.address)
        )

    def _info(self, mapping: int) -> FileInfo:
        """The inode of an address space, which has to be the inode's own.

        A page that is used for something else may hold anything where a page of a file
        has this pointer; hardly anything else points back.
        """
        guest = self._guest
        inode = guest.pointer(mapping, "address_space.host")
        if inode + guest.layout.at("inode.i_data") != mapping:
            raise UnreadableError(f"no address space at {mapping:#x}")
        return self._files.info(inode)


class CachedFile:
    """The bytes of a file as far as they are in the guest's page cache."""

    def __init__(self, memory: GuestMemory, pages: Pages, rows: I64) -> None:
        self._memory = memory
        order = np.argsort(pages.index[rows], kind="stable")
        self._index: U64 = pages.index[rows][order]
        self._page: U64 = pages.page[rows][order]

    def read(self, offset: int, size: int) -> bytes | None:
        """``size`` bytes from ``offset``; None when a page of them is not there."""
        if not 0 <= offset < 1 << 62 or size < 0 or size > limits.ELF_NOTE_BYTES:
            return None
        parts = []
        while size > 0:
            place = offset & (PAGE - 1)
            take = min(size, PAGE - place)
            page = self._find(offset // PAGE)
            if page is None:
                return None
            try:
                parts.append(self._memory.physical(page * PAGE + place, take))
            except UnreadableError:
                return None
            offset += take
            size -= take
        return b"".join(parts)

    def _find(self, index: int) -> int | None:
        row = int(np.searchsorted(self._index, np.uint64(index)))
        if row < len(self._index) and int(self._index[row]) == index:
            return int(self._page[row])
        return None
