# SPDX-License-Identifier: GPL-2.0-or-later
"""flock(2) locks: the store's writer lock, and the mark of machines that map packs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sysqcache.base.errors import StoreBusy

DEFAULT_TIMEOUT: Final = 60.0
"""Seconds to wait for the writer lock; an ingest of a whole boot takes a few."""

_POLL: Final = 0.02


@contextlib.contextmanager
def exclusive(path: Path, timeout: float = DEFAULT_TIMEOUT) -> Iterator[None]:
    """Hold the lock file ``path`` alone; it is released by the end of the process too.

    Raises StoreBusy after ``timeout`` seconds.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _acquire(fd, path, timeout)
        yield
    finally:
        os.close(fd)


def _acquire(fd: int, path: Path, timeout: float) -> None:
    # polled, as a blocking flock can only be ended by a signal
    deadline = time.monotonic() + timeout
    while not _try_lock(fd, fcntl.LOCK_EX):
        if time.monotonic() >= deadline:
            raise StoreBusy(
                f"another process has held {path} for {timeout:g} s",
                hint="wait for the other sysqcache command to finish, then try again",
            )
        time.sleep(_POLL)


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_shared(path: Path) -> int:
    """A descriptor that marks the packs as in use until its last copy is closed.

    The lock belongs to the open file, so that a QEMU that inherits the descriptor
    keeps it after its starter has ended. Waits for a ``compact`` that runs.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextlib.contextmanager
def unused(path: Path) -> Iterator[bool]:
    """True, and nobody can start to use the packs meanwhile; or False at once."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield _try_lock(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)
