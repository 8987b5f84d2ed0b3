# SPDX-License-Identifier: GPL-2.0-or-later
"""Random access to bytes: of files, of memory, of whatever else there is."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, Protocol


class RandomAccess(Protocol):
    """Random access to bytes."""

    @property
    def size(self) -> int:
        """Bytes altogether."""

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from ``offset``; fewer at the end, or where nothing can be read."""


class UnreadableImage(Exception):
    """An image that can't be read, with the reason in words."""


class MemoryAccess:
    """Bytes in memory."""

    def __init__(self, content: bytes | memoryview) -> None:
        self._content = memoryview(content)
        self.size = len(self._content)
        """Bytes altogether."""

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from ``offset``, fewer at the end."""
        return bytes(self._content[offset : offset + size])


class FileAccess:
    """A file as it is, of ``size`` bytes: a raw image.

    Raises UnreadableImage when it can't be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise UnreadableImage(f"{path} can't be opened: {error.strerror}") from error
        try:
            # not fstat: a block device has no size there
            self.size = os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as error:
            self.close()
            raise UnreadableImage(f"{path} has no size: {error.strerror}") from error

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from ``offset``; fewer at the end and after a read error."""
        try:
            return os.pread(self._fd, max(0, min(size, self.size - offset)), offset)
        except (OSError, OverflowError):
            return b""

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class AccessStream(io.RawIOBase):
    """Bytes as a file object, for libraries that want one."""

    def __init__(self, blocks: RandomAccess) -> None:
        super().__init__()
        self._blocks = blocks
        self._place = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to another place."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._blocks.size}
        self._place = max(0, base[whence] + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the present place on."""
        content = self._blocks.read(self._place, len(buffer))
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)
