# SPDX-License-Identifier: GPL-2.0-or-later
"""Maps files whose bytes become host code, and refuses what others could have written."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
import weakref
from typing import TYPE_CHECKING, Final

from sysqcache.base.errors import FormatError
from sysqcache.base.files import held

if TYPE_CHECKING:
    from pathlib import Path

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_LIBC.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)

_MADV_POPULATE_READ: Final = 22
_MAP_FAILED: Final = ctypes.c_void_p(-1).value
NO_FILE: Final = (errno.ELOOP, errno.ENXIO)
"""What open(2) says of symbolic links and sockets."""


def check_private(path: Path, info: os.stat_result) -> None:
    """Refuse a file that another user than root owns or could have written.

    The engine decides by the same rules. Raises FormatError with reason "owner",
    "writable" or "unreadable" (not a regular file); none of it says that the content is bad.
    """
    if not stat.S_ISREG(info.st_mode):
        raise FormatError(f"{path} is not a regular file", reason="unreadable")
    if info.st_uid not in (os.geteuid(), 0):
        raise FormatError(f"{path} belongs to user {info.st_uid}", reason="owner")
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise FormatError(f"{path} can be written by other users", reason="writable")


def open_private(path: Path) -> int:
    """A read-only descriptor of a private regular file; symbolic links are refused.

    Raises FormatError as :func:`check_private`, which tells what the file is, and OSError
    when the system refuses, which tells nothing about it. The check is on the open file, so
    that a swap of the name changes nothing.
    """
    try:
        # O_NONBLOCK: opening a FIFO that someone put there must not wait
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in NO_FILE:
            raise FormatError(f"{path} is not a regular file", reason="unreadable") from error
        raise
    try:
        check_private(path, os.fstat(fd))
    except FormatError:
        os.close(fd)
        raise
    return fd


def map_private(path: Path) -> memoryview:
    """The bytes of a private file, mapped read-only.

    The mapping lives as long as something refers to the returned view.
    No descriptor stays open. Raises FormatError and OSError as :func:`open_private`.
    """
    with held(open_private(path)) as fd:
        try:
            return map_bytes(fd, os.fstat(fd).st_size)
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error


def map_bytes(fd: int, size: int) -> memoryview:
    """The first ``size`` bytes of a file, mapped read-only; ``fd`` may be closed.

    Raises OSError, also when a page can't be read: what reads it later would get SIGBUS.
    """
    if size == 0:
        return memoryview(b"")
    # not mmap.mmap, which before Python 3.13 keeps a descriptor for each mapping
    start = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, 0)
    if start == _MAP_FAILED:
        raise _error(ctypes.get_errno())
    content = (ctypes.c_char * size).from_address(start)
    weakref.finalize(content, _LIBC.munmap, start, size).atexit = False
    failed = _LIBC.madvise(start, size, _MADV_POPULATE_READ) and ctypes.get_errno()
    if failed not in (0, errno.EINVAL):  # kernels before 5.14 do not know it
        raise _error(errno.EIO if failed == errno.EFAULT else failed)
    return memoryview(content).cast("B").toreadonly()


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def read_private(path: Path, size: int) -> tuple[bytes, int]:
    """The first ``size`` bytes of a private file, and how long the file is.

    Raises FormatError and OSError as :func:`open_private`.
    """
    with held(open_private(path)) as fd:
        return os.pread(fd, size, 0), os.fstat(fd).st_size


def read_small(path: Path, limit: int) -> bytes:
    """All of a private file. Raises FormatError, also when it is too large, and OSError."""
    content, size = read_private(path, limit)
    if size > len(content):
        raise FormatError(f"{path} is too large")
    return content
