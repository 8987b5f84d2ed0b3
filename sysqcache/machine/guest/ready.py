# SPDX-License-Identifier: GPL-2.0-or-later
"""Readiness probes: each waits a short while and tells whether the machine is ready."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from pathlib import Path
from typing import Final, Protocol

from sysqcache.base.errors import GuestCommandError
from sysqcache.base.types import Probe
from sysqcache.machine.guest.agent import KeptAgent
from sysqcache.spec.spec import Ready

_POLL: Final = 0.005
_KEPT_BYTES: Final = 16 * 1024


class ReadyProbe(Protocol):
    """One way to see that a machine is ready."""

    def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds``; True as soon as the machine is ready.

        Nothing is held in between.
        """


class NoProbe:
    """Ready at once."""

    def wait(self, seconds: float) -> bool:
        """True."""
        return True


class SerialProbe:
    """Ready when a regular expression matches the serial output, read from its log."""

    def __init__(self, log: Path, pattern: str) -> None:
        self._log = log
        self._pattern = re.compile(pattern.encode(), re.MULTILINE)
        self._offset = 0
        self._kept = b""

    def wait(self, seconds: float) -> bool:
        """See :class:`ReadyProbe`."""
        deadline = time.monotonic() + seconds
        while not self._look():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        return True

    def _look(self) -> bool:
        try:
            with self._log.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:
            return False
        if not data:
            return False
        self._offset += len(data)
        self._kept += data.replace(b"\r", b"")
        found = self._pattern.search(self._kept) is not None
        self._kept = self._kept[-_KEPT_BYTES:]
        return found


class TcpProbe:
    """Ready when the guest sends something on a forwarded port.

    A connection alone says nothing: QEMU's NAT accepts it before the guest does.
    """

    def __init__(self, address: str, port: int, send: str) -> None:
        self._target = (address, port)
        self._send = send.encode("utf-8", "surrogateescape")

    def wait(self, seconds: float) -> bool:
        """See :class:`ReadyProbe`."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(OSError):
                if self._answers(left):
                    return True
            time.sleep(min(0.05, max(0.0, deadline - time.monotonic())))
        return False

    def _answers(self, timeout: float) -> bool:
        with socket.create_connection(self._target, timeout) as connection:
            connection.settimeout(timeout)
            if self._send:
                connection.sendall(self._send)
            return bool(connection.recv(1))


class AgentProbe:
    """Ready when the guest agent answers; the connection is left to whoever keeps it."""

    def __init__(self, channel: KeptAgent) -> None:
        self._channel = channel

    def wait(self, seconds: float) -> bool:
        """See :class:`ReadyProbe`."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(GuestCommandError):
            if (agent := self._channel.keep()) is not None:
                return agent.sync(seconds)
        # another client has it, or QEMU is about to end: the caller looks
        self._channel.close()
        time.sleep(max(0.0, deadline - time.monotonic()))
        return False


def make_probe(
    ready: Ready, *, serial_log: Path, agent: KeptAgent, target: tuple[str, int]
) -> ReadyProbe:
    """The probe that ``ready`` asks for; ``target`` is the host end of its port."""
    match ready.probe:
        case Probe.SERIAL:
            return SerialProbe(serial_log, ready.pattern)
        case Probe.TCP:
            return TcpProbe(*target, ready.send)
        case Probe.GUEST_AGENT:
            return AgentProbe(agent)
        case Probe.NONE:
            return NoProbe()
