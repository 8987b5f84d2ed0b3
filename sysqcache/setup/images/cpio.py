# SPDX-License-Identifier: GPL-2.0-or-later
"""Writing an initial RAM disk: the "newc" cpio format of the kernel's buffer-format.rst.

Written here because it is thirty lines and makes every file root's without being root.
"""

from __future__ import annotations

import stat
from pathlib import Path

_TRAILER = "TRAILER!!!"


def _pad(length: int) -> bytes:
    return b"\0" * (-length % 4)


class CpioWriter:
    """Collects entries and gives the archive; equal entries give equal bytes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0
        self._directories: set[str] = set()

    def _entry(
        self, name: str, mode: int, data: bytes = b"", rdev: tuple[int, int] = (0, 0)
    ) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device, device of the file, name, check
        fields = [self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *rdev, len(encoded), 0]
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        self._parts += [header, _pad(len(header)), data, _pad(len(data))]

    def directory(self, name: str) -> None:
        """Add a directory and its parents, each once."""
        if name in ("", ".") or name in self._directories:
            return
        self.directory(str(Path(name).parent))
        self._directories.add(name)
        self._entry(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file, its directories included."""
        self.directory(str(Path(name).parent))
        self._entry(name, stat.S_IFREG | mode, data)

    def symlink(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self.directory(str(Path(name).parent))
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, name: str, major: int, minor: int) -> None:
        """Add a character device."""
        self.directory(str(Path(name).parent))
        self._entry(name, stat.S_IFCHR | 0o600, rdev=(major, minor))

    def tree(self, directory: Path) -> None:
        """Add every regular file below ``directory`` under its relative name."""
        for path in sorted(p for p in directory.rglob("*") if p.is_file()):
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            self.file(str(path.relative_to(directory)), path.read_bytes(), mode)

    def getvalue(self) -> bytes:
        """The whole archive."""
        name = _TRAILER.encode() + b"\0"
        header = b"070701" + b"00000000" * 11 + b"%08X" % len(name) + b"00000000" + name
        return b"".join([*self._parts, header, _pad(len(header))])
