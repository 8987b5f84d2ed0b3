# SPDX-License-Identifier: GPL-2.0-or-later
"""Output that nobody reads any more: a terminal that was closed, a pipe without a reader.

What was written for people is no reason to end a machine, or to lose what it recorded.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from typing import Final, TextIO

_OUTPUTS: Final = (1, 2)
_GONE: Final = select.POLLHUP | select.POLLERR | select.POLLNVAL


def tell(text: str, stream: TextIO | None = None) -> None:
    """Write a line for people, at once; it is lost where that fails.

    :param stream: by default stderr.
    """
    stream = sys.stderr if stream is None else stream
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            _discard(stream.fileno())


def leave() -> None:
    """Write no more to a terminal that was closed, which would be an error each time."""
    poller = select.poll()
    for fd in _OUTPUTS:
        poller.register(fd, 0)
    for fd, found in poller.poll(0):
        if found & _GONE:
            _discard(fd)


def _discard(fd: int) -> None:
    """Let all that is written to ``fd`` from now on, and what waits, go nowhere."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.dup2(null, fd)
    finally:
        os.close(null)
