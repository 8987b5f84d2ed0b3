# SPDX-License-Identifier: GPL-2.0-or-later
"""Lets the kernel refuse a system call to this process, and to those it starts, for ever."""

from __future__ import annotations

import ctypes
import errno
import struct

CALLS = {"fcntl": 72, "flock": 73, "fsync": 74, "clone3": 435}  # of x86_64

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER = 22, 38, 2
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ERRNO, _ALLOW = 0x0005_0000, 0x7FFF_0000
_SECOND = 24
"""Where a call's second argument is."""


def refuse(call: str, error: int = errno.ENOLCK, second: int | None = None) -> None:
    """From now on ``call`` fails with ``error``.

    :param second: only if that is its second argument.
    """
    checks = [(0, CALLS[call])] + ([] if second is None else [(_SECOND, second)])
    words = []
    for left, (offset, value) in zip(range(len(checks), 0, -1), checks, strict=True):
        words += [(_LOAD, 0, 0, offset), (_EQUAL, 0, 2 * left - 1, value)]
    words += [(_RETURN, 0, 0, _ERRNO | error), (_RETURN, 0, 0, _ALLOW)]
    buffer = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in words))
    program = struct.pack("HxxxxxxP", len(words), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(_PR_SET_SECCOMP, _FILTER, program) == 0, ctypes.get_errno()
