# SPDX-License-Identifier: GPL-2.0-or-later
"""The serial console on this terminal; Ctrl-] leaves it."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sysqcache.base.errors import MachineBusy, UsageError
from sysqcache.base.sockets import connect_unix
from sysqcache.base.system import refused_as

LEAVE_KEY: Final = b"\x1d"
_REPLAY: Final = 8 * 1024


def attach(serial_socket: Path, log: Path | None = None) -> bool:
    """Connect this terminal with the serial port until Ctrl-] or the machine's end.

    :param log: its last lines are shown first.
    :returns: True when the user left, False when the machine ended.

    Raises :class:`UsageError` without a terminal, :class:`MachineBusy` when another
    console is attached. The terminal's settings are restored in every case.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("a console needs a terminal on standard input and output")
    problem = "no connection to the serial port"
    with refused_as(MachineBusy, problem, "another console may be attached"):
        connection = connect_unix(serial_socket, 1.0)
    with connection, raw_terminal(sys.stdin.fileno()):
        connection.setblocking(True)
        _replay(log)
        return _copy(connection.fileno(), sys.stdin.fileno(), sys.stdout.fileno())


def _replay(log: Path | None) -> None:
    if log is None:
        return
    with contextlib.suppress(OSError), log.open("rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - _REPLAY))
        os.write(sys.stdout.fileno(), stream.read())


def _copy(serial: int, keyboard: int, screen: int) -> bool:
    while True:
        ready, _, _ = select.select([serial, keyboard], [], [])
        if serial in ready:
            try:
                data = os.read(serial, 65536)
            except ConnectionResetError:
                return False
            if not data:
                return False
            _write_all(screen, data)
        if keyboard in ready:
            keys, leave, _ = os.read(keyboard, 4096).partition(LEAVE_KEY)
            try:
                _write_all(serial, keys)
            except BrokenPipeError:
                return False
            if leave:
                return True


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


@contextlib.contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """A terminal that passes every key on, until the end of the scope."""
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
