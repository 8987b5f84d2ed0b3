# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that appear whole, and locks that the end of a process frees."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

TEMPORARY: Final = ".new-"
"""Prefix of files that are being written; a kill leaves them, a failure does not."""

STALE_S: Final = 86400.0
"""After so many seconds nobody writes any more what was begun then."""

_POLL: Final = 0.02
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def replacing(path: Path, *, synced: bool = False) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``path``, whole, when the body succeeds.

    Others see the old file or the new one. After a failure, a full disk as well, the old one
    is there and nothing else. Mode 0600, unless the body changes it. Raises OSError.

    :param synced: the new file outlives a failure of power too.
    """
    parent = path.absolute().parent
    fd, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=parent)
    try:
        with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor
            yield file
            if synced:
                file.flush()
                os.fsync(fd)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if synced:
        sync_directory(parent)


def remove_stale(directory: Path) -> None:
    """Remove what kills left of files that were being written, where anybody may be writing."""
    for path in directory.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_mtime < time.time() - STALE_S:
                path.unlink()


def replace_file(path: Path, content: bytes, *, synced: bool = False) -> None:
    """Write a small file as :func:`replacing` does. Raises OSError."""
    with replacing(path, synced=synced) as file:
        file.write(content)


def make_directory(path: Path, mode: int = 0o700) -> None:
    """Make a directory and those above it; what is made gets this mode, whatever the umask.

    Directories that are there stay as they are. Raises OSError.
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_directory(path.parent, mode)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode)
        path.chmod(mode)
        return
    path.mkdir(exist_ok=True)  # raises unless another process made the same directory


@contextlib.contextmanager
def held(fd: int) -> Iterator[int]:
    """A descriptor that is closed when the body ends."""
    try:
        yield fd
    finally:
        os.close(fd)


def sync_directory(directory: Path) -> None:
    """Make renames inside ``directory`` durable."""
    with held(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
        os.fsync(fd)


@contextlib.contextmanager
def locked(path: Path, patience: float | None = 0.0) -> Iterator[int | None]:
    """Hold a lock file alone: its descriptor, or None when another process has it.

    The lock belongs to the open file: a process that inherits the descriptor holds it too,
    and the kernel frees it when the last of them ends. The file stays. Raises OSError.

    :param patience: seconds to wait for it; None: until it is free.
    """
    with held(_open_lock(path)) as fd:
        yield fd if _acquire(fd, patience) else None


def share(path: Path) -> int:
    """A descriptor that holds a lock file together with others, until its last copy is closed.

    Waits while a process holds it alone. Raises OSError.
    """
    fd = _open_lock(path)
    try:
        _flock(fd, fcntl.LOCK_SH)
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock file; holds it for a moment when none does.

    Raises OSError: nobody knows then.
    """
    try:
        with held(os.open(path, os.O_RDWR | os.O_CLOEXEC)) as fd:
            return not _acquire(fd, 0.0)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _acquire(fd: int, patience: float | None) -> bool:
    # polled, as a blocking flock can only be ended by a signal
    deadline = None if patience is None else time.monotonic() + patience
    while True:
        try:
            _flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        else:
            return True


def _flock(fd: int, how: int) -> None:
    """Lock. A file system without locks is one error, whatever it answers."""
    try:
        fcntl.flock(fd, how)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK)) from error
