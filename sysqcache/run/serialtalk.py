# SPDX-License-Identifier: GPL-2.0-or-later
"""A command over the serial line, for guests that have no agent.

The line carries one stream: what the command writes to both of its outputs. It reads nothing.
"""

from __future__ import annotations

import re
import secrets
import select
import shlex
import socket
import time
from typing import Final

from sysqcache.base.errors import GuestCommandError, UsageError
from sysqcache.run.streams import CHUNK, Hangup, Sink

_LINE_MAX: Final = 4000
"""Bytes that a terminal's line can have."""

_LONGEST_STATUS: Final = 5


class SerialTalk:
    """One command in a shell that reads the serial line."""

    def __init__(self, end: socket.socket, out: Sink) -> None:
        self._end, self._out = end, out
        self._token = secrets.token_hex(8).encode()
        self._said = b""
        self._begun = False

    def begin(self, line: bytes) -> None:
        """Type the command. Raises :class:`UsageError` when it is too long for a line."""
        token = self._token.decode()
        code = shlex.quote(line.decode("utf-8", "surrogateescape").rstrip("\n"))
        # the quotes keep an echoed line from looking like the output
        typed = f'echo "<<""{token}"; sh -c {code} < /dev/null; echo "{token}"":$?>>"\n'
        data = typed.encode("utf-8", "surrogateescape")
        if len(data) > _LINE_MAX:
            raise UsageError("the command is too long for a serial line")
        self._end.sendall(data)

    def send_signal(self, name: str) -> None:
        """A serial shell takes no signals while it runs a command: the machine can be ended."""

    def talk(self, stdin: int | None, deadline: float | None) -> int | None:
        """Pass output on until the command has ended; its exit status, None at the deadline.

        Raises :class:`Hangup`, and what the sink raises.
        """
        if stdin is not None:
            raise GuestCommandError("over a serial line a command has no input")
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            ready, _, _ = select.select([self._end], [], [], left)
            if ready and (status := self._take(self._end.recv(CHUNK))) is not None:
                return status

    def _take(self, data: bytes) -> int | None:
        """Pass on what is output; the exit status when it comes."""
        if not data:
            raise Hangup
        self._said += data
        if not self._begun:
            found = re.search(rb"<<" + self._token + rb"\r*\n", self._said)
            if found is None:
                return None
            self._begun, self._said = True, self._said[found.end() :]
        end = re.search(self._token + rb":(\d+)>>", self._said)
        if end is not None:
            self._pass(self._said[: end.start()])
            return int(end[1])
        keep = len(self._token) + _LONGEST_STATUS
        self._pass(self._said[:-keep])
        self._said = self._said[-keep:]
        return None

    def _pass(self, data: bytes) -> None:
        if data:
            self._out(data.replace(b"\r\n", b"\n"))
