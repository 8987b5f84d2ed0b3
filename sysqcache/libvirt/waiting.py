# SPDX-License-Identifier: GPL-2.0-or-later
"""Journals of a domain on their way from QEMU's directory into the store.

QEMU's user owns what it wrote and may go on writing, truncate it or put something else in
its place, so a journal is moved away, checked, and read from a copy of ours.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.base.errors import FormatError
from sysqcache.base.mapfile import NO_FILE
from sysqcache.libvirt.folder import DomainFolder
from sysqcache.machine.cache import new_run_id
from sysqcache.store.journals import is_being_written

MAX_BYTES: Final = (1 << 30) + (64 << 20)
"""The engine stops recording at 1 GiB."""

_CHUNK: Final = 16 << 20


def rotate(folder: DomainFolder, uid: int) -> Path | None:
    """Move QEMU's journal out of its reach under a name that no other run has.

    The name is free then for the next start; a QEMU that still runs goes on writing into
    the moved file. None when there is none. Raises FormatError for what is no journal of
    QEMU's user; it was removed. Raises OSError; then it is where it was.
    """
    run = os.open(folder.run, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    target = folder.waiting / f"{new_run_id('libvirt')}{paths.JOURNAL_SUFFIX}"
    try:
        os.rename(paths.DOMAIN_JOURNAL, target, src_dir_fd=run)
        _take_over(target, uid)
    except FileNotFoundError:
        return None
    except FormatError:
        _remove(target)
        raise
    except OSError:
        _give_back(target, run)
        raise
    finally:
        os.close(run)
    return target


def _give_back(target: Path, run: int) -> None:
    """Move a journal back, unless QEMU has a new one by now."""
    with contextlib.suppress(OSError):
        os.link(target, paths.DOMAIN_JOURNAL, dst_dir_fd=run, follow_symlinks=False)
        target.unlink()


def _take_over(path: Path, uid: int) -> None:
    """Make a moved file ours. Raises FormatError unless it is a plain file of ``uid``."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in NO_FILE:
            raise FormatError("the journal is no file", reason="unreadable") from None
        raise
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
            raise FormatError("the journal is not a file of its own", reason="unreadable")
        if info.st_uid != uid:
            raise FormatError(f"the journal belongs to user {info.st_uid}", reason="owner")
        if info.st_uid != os.geteuid():
            os.fchown(fd, os.geteuid(), os.getegid())
        os.fchmod(fd, 0o600)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def journals(folder: DomainFolder) -> list[Path]:
    """All journals that wait, oldest first."""
    return sorted(folder.waiting.glob(f"*{paths.JOURNAL_SUFFIX}"))


def ended(folder: DomainFolder) -> Iterator[Path]:
    """Those that no QEMU writes any more; a file of somebody else's is passed over."""
    for path in journals(folder):
        with contextlib.suppress(FormatError, OSError):
            if not is_being_written(path):
                yield path


def being_written(folder: DomainFolder) -> Path | None:
    """The journal of the QEMU that runs now."""
    for path in reversed(journals(folder)):
        with contextlib.suppress(FormatError, OSError):
            if is_being_written(path):
                return path
    return None


def copy(journal: Path, target: Path) -> None:
    """What a waiting journal holds now, in a file that nobody else has open.

    Raises OSError, FormatError for one that is larger than an engine writes.
    """
    fd = os.open(journal, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as source:
        left = os.fstat(fd).st_size
        if left > MAX_BYTES:
            raise FormatError(f"{journal} has {left} bytes", reason="bounds")
        target.unlink(missing_ok=True)
        try:
            with target.open("xb") as copied:
                os.fchmod(copied.fileno(), 0o600)
                # it may get longer or shorter meanwhile
                while data := source.read(min(left, _CHUNK)):
                    copied.write(data)
                    left -= len(data)
        except OSError:
            target.unlink(missing_ok=True)
            raise
