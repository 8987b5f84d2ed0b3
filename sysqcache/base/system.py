# SPDX-License-Identifier: GPL-2.0-or-later
"""What the system refuses, and what to do then: never a reason to believe that a file is bad."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sysqcache.base.errors import SysqcacheError

_SPACE: Final = "free some space, or run 'sysqcache cache compact'"
_OWNER: Final = "check owner and permissions of the directory, or set SYSQCACHE_STORE"
_FILES: Final = "allow more open files: ulimit -n 1024"
_MEMORY: Final = "free some memory, or allow more: ulimit -v, the limits of the control group"
_THREADS: Final = "allow more processes: ulimit -u, the limits of the control group (pids.max)"
_LOCKS: Final = "its file system has no locks: set SYSQCACHE_HOME to a directory on another one"
_DISK: Final = "the disk fails, the kernel's log says how: copy what can be read to another one"

_HINTS: Final[dict[int, str]] = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: _SPACE,
    errno.EACCES: _OWNER,
    errno.EPERM: _OWNER,
    errno.EROFS: _OWNER,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.ENOMEM: _MEMORY,
    errno.EAGAIN: _THREADS,
    errno.ENOLCK: _LOCKS,
    errno.EIO: _DISK,
}

REFUSALS: Final = tuple(_HINTS)
"""Errors that say nothing about what a file holds."""

_NO_MEMORY: Final = ("failed to map segment", "cannot allocate memory")
"""What the loader says of a library that has no room."""

_SHORT: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)

ENOUGH_FILES: Final = 4096
"""A store has a few packs an image, and none of them stays open."""

FEW_FILES: Final = 128


def hint(number: int | None) -> str:
    """The next step after an error of the system, or ""."""
    return _HINTS.get(number or 0, "")


def memory_kills() -> int:
    """How many processes the kernel has ended for want of memory, 0 where it does not tell."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def is_short(error: OSError) -> bool:
    """Whether the system is short of something for a while; no file is to blame."""
    return error.errno in _SHORT


def is_full(error: SysqcacheError | OSError) -> bool:
    """Whether a disk, or a share of it, has no space left."""
    number = error.errno if isinstance(error, OSError) else refusal(error.message)
    return number in _FULL


def refusal(text: str) -> int | None:
    """The error of the system that a message of a library ends with, if it is one."""
    return next((n for n in REFUSALS if os.strerror(n) in text), None)


def allow_open_files() -> None:
    """Raise the soft limit of open files, which is for programs that use select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, ENOUGH_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def few_files() -> str:
    """A line for the user when hardly any files may be open, else ""."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FEW_FILES:
        return ""
    return f"this process may open {soft} files only: {_FILES}"


def shortage(error: BaseException) -> OSError | None:
    """What the system refused, in its words, also where Python or its loader have others."""
    if isinstance(error, OSError):
        return error
    text = str(error).lower()
    no_room = isinstance(error, ImportError) and any(said in text for said in _NO_MEMORY)
    if isinstance(error, MemoryError) or no_room:
        return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        return OSError(errno.EAGAIN, "no more threads can be started")
    return None


@contextlib.contextmanager
def refused_as(kind: type[SysqcacheError], text: str, remedy: str = "") -> Iterator[None]:
    """Let an OSError be a ``kind`` of error: ``text``, what the system said, the next step.

    :param remedy: the next step, if it is not the one that fits what the system said.
    """
    try:
        yield
    except OSError as error:
        raise kind(
            f"{text}: {error.strerror or error}", hint=remedy or hint(error.errno)
        ) from error


def require_memory(size: int) -> None:
    """Raise OSError unless so many bytes of address space can be had.

    As :func:`require_threads`, for what ends the process when the system refuses: QEMU, and
    libraries in C++.
    """
    mmap.mmap(-1, size, mmap.MAP_PRIVATE).close()


def require_threads(count: int) -> None:
    """Raise OSError unless so many threads can be started."""
    with contextlib.ExitStack() as held:
        for _ in range(count):
            held.enter_context(_thread())


@contextlib.contextmanager
def _thread() -> Iterator[None]:
    """One thread more, which does nothing."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    try:
        thread.start()
    except RuntimeError as error:
        raise shortage(error) or error from None
    try:
        yield
    finally:
        end.set()
        thread.join()
