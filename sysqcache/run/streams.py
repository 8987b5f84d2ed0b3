# SPDX-License-Identifier: GPL-2.0-or-later
"""Bytes between this process and a command in a guest, until the command has ended."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from sysqcache.run import guestside

CHUNK: Final = 65536
_GRACE: Final = 1.0
"""Seconds for what is on its way when the command has ended; its children may write for ever."""

Sink = Callable[[bytes], None]


def writer(fd: int) -> Sink:
    """Writes bytes to a descriptor, all of them. Raises OSError."""

    def write(data: bytes) -> None:
        while data:
            data = data[os.write(fd, data) :]

    return write


class Hangup(Exception):
    """The guest's end of the streams is gone: QEMU has ended."""


class Until:
    """Passes bytes on, up to a token."""

    def __init__(self, token: bytes, sink: Sink) -> None:
        self._token, self._sink = token, sink
        self._held = b""
        self.complete = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        data = self._held + data
        found = data.find(self._token)
        if found >= 0:
            self.complete = True
            self._held, data = b"", data[:found]
        else:
            self._held = data[len(data) - _begun(data, self._token) :]
            data = data[: len(data) - len(self._held)]
        if data:
            self._sink(data)

    def flush(self) -> None:
        """Pass on what looked like the beginning of a token."""
        if self._held:
            self._sink(self._held)
            self._held = b""


def _begun(data: bytes, token: bytes) -> int:
    """How many bytes at the end of ``data`` may be the beginning of a token."""
    longest = min(len(token) - 1, len(data))
    return next((n for n in range(longest, 0, -1) if data.endswith(token[:n])), 0)


class Talk(Protocol):
    """A command in a guest that is talked with."""

    def send_signal(self, name: str) -> None:
        """Send a signal to the command, by its name without SIG; or the size of its terminal."""

    def talk(self, stdin: int | None, deadline: float | None) -> int | None:
        """Pass bytes on until the command has ended."""


class PortTalk:
    """The streams of one command, by the host's ends of a template's ports.

    :param token: what follows on complete output.
    """

    def __init__(
        self, ends: Mapping[str, socket.socket], token: bytes, out: Sink, errors: Sink
    ) -> None:
        self._ends = ends
        self._control = ends[guestside.CONTROL]
        self._input: socket.socket | None = ends[guestside.INPUT]
        self._output, self._errors = Until(token, out), Until(token, errors)
        self._said = b""
        self._waiting = b""

    def begin(self, line: bytes) -> None:
        """Tell the guest what to become."""
        self._control.sendall(line)

    def send_signal(self, name: str) -> None:
        """Send a signal to the command, by its name without SIG."""
        with contextlib.suppress(OSError):
            self._ends[guestside.SIGNALS].sendall(f"{name}\n".encode())

    def talk(self, stdin: int | None, deadline: float | None) -> int | None:
        """Pass bytes on until the command has ended; its exit status, None at the deadline.

        :param stdin: the descriptor of what the command reads; None: nothing.
        :param deadline: of the monotonic clock.
        Raises :class:`Hangup`, and what the sinks raise.
        """
        if stdin is None:
            self._end_input()
        status, last = None, None
        while last is None or time.monotonic() < last:
            limit = deadline if last is None else last
            if last is None and deadline is not None and time.monotonic() >= deadline:
                return None
            self._pass_on(stdin, limit)
            if self._input is None:
                stdin = None
            if status is None and (status := self._status()) is not None:
                last = time.monotonic() + _GRACE
            if status is not None and self._output.complete and self._errors.complete:
                break
        self._output.flush()
        self._errors.flush()
        return status

    def _pass_on(self, stdin: int | None, limit: float | None) -> None:
        """Wait for bytes and move them."""
        poller = select.poll()
        control, input_ = self._control.fileno(), self._input
        outputs = {
            self._ends[name].fileno(): (self._ends[name], stream)
            for name, stream in (
                (guestside.OUTPUT, self._output),
                (guestside.ERRORS, self._errors),
            )
            if not stream.complete
        }
        for fd in (control, *outputs):
            poller.register(fd, select.POLLIN)
        if input_ is not None and self._waiting:
            poller.register(input_, select.POLLOUT)
        elif input_ is not None and stdin is not None:
            poller.register(stdin, select.POLLIN)
        wait = None if limit is None else max(0, int((limit - time.monotonic()) * 1000) + 1)
        for fd, _ in poller.poll(wait):
            if fd in outputs:
                end, stream = outputs[fd]
                stream.feed(_receive(end))
            elif fd == control:
                self._said += _receive(self._control)
            elif input_ is not None and fd == input_.fileno():
                self._send_input()
            elif stdin is not None:
                self._read_input(stdin)

    def _read_input(self, stdin: int) -> None:
        try:
            self._waiting = os.read(stdin, CHUNK)
        except OSError:  # a terminal that was closed
            self._waiting = b""
        if not self._waiting:
            self._end_input()

    def _send_input(self) -> None:
        assert self._input is not None
        try:
            sent = self._input.send(self._waiting, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        except OSError:
            raise Hangup from None
        self._waiting = self._waiting[sent:]

    def _end_input(self) -> None:
        """The guest reads to the end of what was sent, and then an end of file."""
        if self._input is not None:
            self._input.close()
            self._input = None

    def _status(self) -> int | None:
        line, end, _ = self._said.partition(b"\n")
        return int(line.removeprefix(b"exit ")) if end else None


def _receive(end: socket.socket) -> bytes:
    try:
        data = end.recv(CHUNK)
    except OSError:
        data = b""
    if not data:
        raise Hangup
    return data
