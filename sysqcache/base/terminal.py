# SPDX-License-Identifier: GPL-2.0-or-later
"""Output that nobody reads any more: a terminal that was closed, a pipe without a reader.

What was written for people is no reason to end a machine, or to lose what it recorded.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from typing import TYPE_CHECKING, ClassVar, Final, TextIO

from sysqcache.base.files import held

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_OUTPUTS: Final = (1, 2)
_GONE: Final = select.POLLHUP | select.POLLERR | select.POLLNVAL


def open_all() -> None:
    """Give a process that was started without them its standard streams, which go nowhere.

    The next files that are opened would take their numbers, and get what is written to these.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # the lowest number that is free
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


class _Stdout(io.FileIO):
    """Remembers why it could not be written to: such an error does not name a file."""

    failures: ClassVar[list[OSError]] = []

    def write(self, data: ReadableBuffer, /) -> int:
        """As always."""
        try:
            return super().write(data)
        except OSError as error:
            self.failures.append(error)
            raise


def watch_stdout() -> None:
    """Let :func:`is_unwritten` know."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Stdout(1, "w", closefd=False)),
            encoding=sys.stdout.encoding,
            errors=sys.stdout.errors,
            line_buffering=sys.stdout.line_buffering,
        )


def is_unwritten(error: BaseException) -> bool:
    """Whether an error tells that stdout could not be written."""
    return any(error is one for one in _Stdout.failures)


def finish() -> OSError | None:
    """Write what waits for stdout; why that failed. It goes nowhere then."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _discard(1)
        return error
    return None


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
    with held(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)) as null:
        os.dup2(null, fd)
