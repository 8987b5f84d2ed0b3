# SPDX-License-Identifier: GPL-2.0-or-later
"""All regular files of a file system, whatever its directories claim."""

from __future__ import annotations

from collections.abc import Iterator

from sysqcache.attribution.imagescan import limits
from sysqcache.attribution.imagescan.ext import ROOT, ExtFileSystem, Inode
from sysqcache.attribution.imagescan.extmap import DamagedFileSystem


class TreeWalk:
    """Iterates over paths and inodes of regular files.

    Each directory is read once, so that a directory that is its own child ends nothing.
    ``damaged`` counts places that could not be read, ``note`` tells the first of them.
    """

    def __init__(self, files: ExtFileSystem) -> None:
        self._files = files
        self.damaged = 0
        self.note = ""

    def __iter__(self) -> Iterator[tuple[str, Inode]]:
        seen: set[int] = {ROOT}
        waiting: list[tuple[str, int]] = [("", ROOT)]
        names = 0
        while waiting:
            path, number = waiting.pop()
            for name, child in self._entries(number):
                names += 1
                if names > limits.DIRECTORY_ENTRIES:
                    self._damage("there are too many names")
                    return
                inode = self._inode(child)
                if inode is None:
                    continue
                below = f"{path}/{name}"
                if inode.is_file:
                    yield below, inode
                elif inode.is_directory and child not in seen and len(below) < limits.PATH_BYTES:
                    seen.add(child)
                    waiting.append((below, child))

    def _entries(self, number: int) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        try:
            inode = self._files.inode(number)
            if inode.is_directory:
                found.extend(self._files.entries(inode))
        except DamagedFileSystem as error:
            self._damage(str(error))
        return found

    def _inode(self, number: int) -> Inode | None:
        try:
            return self._files.inode(number)
        except DamagedFileSystem as error:
            self._damage(str(error))
            return None

    def _damage(self, note: str) -> None:
        self.damaged += 1
        self.note = self.note or note
