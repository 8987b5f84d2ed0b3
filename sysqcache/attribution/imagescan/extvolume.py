# SPDX-License-Identifier: GPL-2.0-or-later
"""An ext2, ext3 or ext4 file system as a volume."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from sysqcache.attribution.imagescan.ext import ROOT, ExtFileSystem
from sysqcache.attribution.imagescan.extmap import DamagedFileSystem
from sysqcache.attribution.imagescan.kernelplaces import KERNEL_DIRECTORIES, MODULES, is_kernel
from sysqcache.attribution.imagescan.volume import FoundFile
from sysqcache.attribution.imagescan.walk import TreeWalk
from sysqcache.formats.access import RandomAccess


class ExtWalk:
    """Implements :class:`volume.Walk`; a file's place is the number of its inode."""

    def __init__(self, files: ExtFileSystem) -> None:
        self._walk = TreeWalk(files)

    @property
    def damaged(self) -> int:
        """Places that could not be read so far."""
        return self._walk.damaged

    @property
    def note(self) -> str:
        """The first of them."""
        return self._walk.note

    def __iter__(self) -> Iterator[FoundFile]:
        for path, inode in self._walk:
            yield FoundFile(path, inode.mode, inode.size, inode.number)


@dataclasses.dataclass(frozen=True, slots=True)
class ExtVolume:
    """Implements :class:`volume.Volume`."""

    origin: str
    files: ExtFileSystem

    def walk(self) -> ExtWalk:
        """Its files."""
        return ExtWalk(self.files)

    def open(self, path: str, place: int) -> RandomAccess:
        """The bytes of the inode ``place``. Raises DamagedFileSystem."""
        return self.files.open(self.files.inode(place))

    def read(self, path: str, most: int) -> bytes:
        """A file by its path, b"" when there is none or a larger one."""
        try:
            inode = self.files.find(path)
            if inode is not None and inode.is_file and inode.size <= most:
                return self.files.open(inode).read(0, inode.size)
        except DamagedFileSystem:
            pass
        return b""

    def has_kernel(self) -> bool:
        """Whether one lies where distributions have them."""
        folders = [*KERNEL_DIRECTORIES, *(f"{MODULES}/{name}" for name in self._names(MODULES))]
        return any(is_kernel(f"{one}/{name}") for one in folders for name in self._names(one))

    def _names(self, path: str) -> list[str]:
        try:
            inode = self.files.find(path) if path else self.files.inode(ROOT)
            if inode is None or not inode.is_directory:
                return []
            return [name for name, _ in self.files.entries(inode)]
        except DamagedFileSystem:
            return []
