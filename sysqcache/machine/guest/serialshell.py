# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands typed into a root shell on the serial console, for guests without an agent.

Standard output and error come back together: a console has one stream.
"""

from __future__ import annotations

import re
import secrets
import shlex
import socket
import time
from pathlib import Path
from typing import Final, Self

from sysqcache.base.errors import GuestCommandError
from sysqcache.base.sockets import connect_unix, hang_up
from sysqcache.base.system import refused_as
from sysqcache.machine.guest.result import TaskResult

_LINE_MAX: Final = 4000
_SHOWN: Final = 500


class SerialShell:
    """A connection to the serial port; QEMU serves one client at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    @classmethod
    def connect(cls, path: Path) -> Self:
        """Connect to the serial port's socket.

        Raises :class:`GuestCommandError`, for example while a console is attached.
        """
        problem = "no connection to the serial port"
        with refused_as(GuestCommandError, problem, "a console may be attached"):
            return cls(connect_unix(path, 1.0))

    def run(self, command: str, timeout: float) -> TaskResult:
        """Run a command; raises :class:`GuestCommandError` after ``timeout`` seconds."""
        token = secrets.token_hex(6)
        # the quotes keep the echoed line from looking like the output
        line = f'echo "<<""{token}"; sh -c {shlex.quote(command)}; echo "{token}"":$?>>"\n'
        if len(line) > _LINE_MAX:
            raise GuestCommandError("the command is too long for a serial console")
        begin = time.monotonic()
        self._send(line, timeout)
        output, code = self._read_result(token, begin + timeout, command)
        return TaskResult(command, time.monotonic() - begin, code, output, "")

    def _send(self, line: str, timeout: float) -> None:
        self._socket.settimeout(timeout)
        try:
            self._socket.sendall(line.encode())
        except OSError as error:
            raise GuestCommandError(f"the serial port broke: {error}") from None

    def _read_result(self, token: str, deadline: float, command: str) -> tuple[str, int]:
        pattern = re.compile(rf"<<{token}\r*\n(.*?){token}:(\d+)>>".encode(), re.DOTALL)
        data = bytearray()
        while (match := pattern.search(data)) is None:
            left = deadline - time.monotonic()
            try:
                self._socket.settimeout(max(0.001, left))
                received = self._socket.recv(65536) if left > 0 else None
            except TimeoutError:
                received = None
            except OSError as error:
                raise GuestCommandError(f"the serial port broke: {error}") from None
            if received is None:
                raise GuestCommandError(
                    f"the serial shell did not finish in time: {command}",
                    hint="is there a root shell on the serial port?",
                    detail=_end(data),
                )
            if not received:
                raise GuestCommandError("QEMU closed the serial port", detail=_end(data))
            data += received
        return re.sub(r"\r+\n", "\n", match[1].decode("utf-8", "replace")), int(match[2])

    def power_off(self) -> None:
        """Power off without going through an init system."""
        self._send("poweroff -f\n", 5.0)

    def hang_up(self) -> None:
        """See :class:`GuestShell`."""
        hang_up(self._socket)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def _end(data: bytearray) -> str:
    """What the guest said last."""
    return data[-_SHOWN:].decode("utf-8", "replace")
