# SPDX-License-Identifier: GPL-2.0-or-later
"""Maps files whose bytes become host code, and refuses what others could have written."""

from __future__ import annotations

import mmap
import os
import stat
from typing import TYPE_CHECKING

from sysqcache.base.errors import FormatError

if TYPE_CHECKING:
    from pathlib import Path


def check_private(path: Path, info: os.stat_result) -> None:
    """Refuse a file that another user than root owns or could have written.

    The engine decides by the same rules. Raises FormatError with reason "owner",
    "writable" or "unreadable" (not a regular file).
    """
    if not stat.S_ISREG(info.st_mode):
        raise FormatError(f"{path} is not a regular file", reason="unreadable")
    if info.st_uid not in (os.geteuid(), 0):
        raise FormatError(f"{path} belongs to user {info.st_uid}", reason="owner")
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise FormatError(f"{path} can be written by other users", reason="writable")


def open_private(path: Path) -> int:
    """A read-only descriptor of a private regular file; symbolic links are refused.

    Raises FormatError as :func:`check_private`, or "unreadable". The check is on
    the open file, so that a swap of the name changes nothing.
    """
    try:
        # O_NONBLOCK: opening a FIFO that someone put there must not wait
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise FormatError(
            f"{path} can't be opened: {error.strerror}", reason="unreadable"
        ) from error
    try:
        check_private(path, os.fstat(fd))
    except FormatError:
        os.close(fd)
        raise
    return fd


def map_private(path: Path) -> memoryview:
    """The bytes of a private file, mapped read-only.

    The mapping lives as long as something refers to the returned view.
    Raises FormatError as :func:`open_private`.
    """
    fd = open_private(path)
    try:
        size = os.fstat(fd).st_size
        if size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_READ))
    except OSError as error:
        raise FormatError(
            f"{path} can't be mapped: {error.strerror}", reason="unreadable"
        ) from error
    finally:
        os.close(fd)


def read_private(path: Path, size: int) -> tuple[bytes, int]:
    """The first ``size`` bytes of a private file, and how long the file is.

    Raises FormatError as :func:`open_private`.
    """
    fd = open_private(path)
    try:
        return os.pread(fd, size, 0), os.fstat(fd).st_size
    except OSError as error:
        raise FormatError(f"{path} can't be read: {error.strerror}", reason="unreadable") from error
    finally:
        os.close(fd)
