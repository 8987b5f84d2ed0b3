# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU guest agent: commands in the guest over a virtio-serial channel."""

from __future__ import annotations

import abc
import base64
import contextlib
import itertools
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from sysqcache.base.errors import GuestCommandError
from sysqcache.base.sockets import connect_unix, hang_up
from sysqcache.base.system import refused_as
from sysqcache.machine.guest.result import TaskResult

_POLL_INTERVAL: Final = 0.005
_SLOWEST_POLL: Final = 0.2
_POLL_SHARE: Final = 0.05
_ANSWER_TIMEOUT: Final = 30.0
_SYNC_REPEAT: Final = 5.0
# the agent puts it before its answer to guest-sync-delimited: everything
# before it belongs to an earlier, interrupted client
_DELIMITER: Final = b"\xff"


class AgentCommands(abc.ABC):
    """Commands in the guest through its agent, whoever holds the channel."""

    @abc.abstractmethod
    def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        timeout: float = _ANSWER_TIMEOUT,
    ) -> Any:
        """The answer of one agent command."""

    def run(self, command: str, timeout: float) -> TaskResult:
        """Run a shell command in the guest; its output is kept in the guest's memory.

        Raises :class:`GuestCommandError` when it takes longer than ``timeout`` seconds;
        it goes on in the guest then.
        """
        begin = time.monotonic()
        arguments = {"path": "/bin/sh", "arg": ["-c", command], "capture-output": True}
        pid = self.execute("guest-exec", arguments)["pid"]
        while True:
            status = self.execute("guest-exec-status", {"pid": pid})
            now = time.monotonic()
            if status["exited"]:
                return _result(command, now - begin, status)
            if now - begin > timeout:
                raise GuestCommandError(
                    f"the command took longer than {timeout:g} s and goes on: {command}"
                )
            # each question costs the guest a few milliseconds (the agent tells the system log of
            # it as well), which its one vCPU has for the command
            time.sleep(min(max(_POLL_INTERVAL, (now - begin) * _POLL_SHARE), _SLOWEST_POLL))


class GuestAgent(AgentCommands):
    """A connection to the agent; QEMU serves one client at a time.

    ``synced``: the agent has answered, and nothing of an earlier client's is on its way.

    Raises :class:`GuestCommandError` when the agent does not answer or refuses.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray()
        self._ids = itertools.count(os.getpid() * 1000)
        self.synced = False

    @classmethod
    def connect(cls, path: Path) -> Self:
        """Connect to QEMU's end of the channel; the agent may not be there yet."""
        problem = "no connection to the guest agent's channel"
        with refused_as(GuestCommandError, problem, "another command may be using it"):
            return cls(connect_unix(path, 1.0))

    def sync(self, timeout: float) -> bool:
        """Wait until the agent answers; False after ``timeout`` seconds without it.

        The request waits in the channel until the agent starts, so an answer comes as
        soon as there can be one.
        """
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            wanted = next(self._ids)
            if self._sync_once(wanted, min(left, _SYNC_REPEAT)):
                self.synced = True
                return True
        return False

    def _sync_once(self, wanted: int, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        request = {"execute": "guest-sync-delimited", "arguments": {"id": wanted}}
        self._send(_DELIMITER + json.dumps(request).encode() + b"\n", timeout)
        while (line := self._read_line(deadline)) is not None:
            answer = line.rpartition(_DELIMITER)[2]
            with contextlib.suppress(ValueError, AttributeError):
                if json.loads(answer).get("return") == wanted:
                    return True
        return False

    def _send(self, data: bytes, timeout: float) -> None:
        self._socket.settimeout(max(0.01, timeout))
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise GuestCommandError(f"the guest agent's channel broke: {error}") from None

    def _read_line(self, deadline: float) -> bytes | None:
        """The next line without its end; None at the deadline."""
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                return None
            except OSError as error:
                raise GuestCommandError(f"the guest agent's channel broke: {error}") from None
            if not data:
                raise GuestCommandError("QEMU closed the guest agent's channel")
            self._buffer += data
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer[:] = rest
        return line

    def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        timeout: float = _ANSWER_TIMEOUT,
    ) -> Any:
        """The answer of one agent command."""
        request = {"execute": command, "arguments": dict(arguments or {})}
        self._send(json.dumps(request).encode() + b"\n", timeout)
        line = self._read_line(time.monotonic() + timeout)
        if line is None:
            raise GuestCommandError(f"the guest agent did not answer {command} in {timeout:g} s")
        try:
            answer = json.loads(line)
        except ValueError:
            raise GuestCommandError(f"the guest agent's answer is not JSON: {line!r}") from None
        if "error" in answer:
            raise _refused(command, str(answer["error"].get("desc")))
        return answer["return"]

    def power_off(self) -> None:
        """Ask for a power-off; the agent does not answer a successful one."""
        request = {"execute": "guest-shutdown", "arguments": {"mode": "powerdown"}}
        self._send(json.dumps(request).encode() + b"\n", 5.0)

    def hang_up(self) -> None:
        """See :class:`GuestShell`."""
        hang_up(self._socket)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class KeptAgent:
    """A connection to the agent that is kept between commands.

    The agent sleeps for 100 ms each time it looks at a channel that nobody is connected to
    (``channel_event_cb`` in QEMU's qga/main.c), so that each new connection may wait as long.
    QEMU serves one connection at a time: others wait until this one is given up.

    :param path: QEMU's end of the channel; None for a machine that has none.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.kept: GuestAgent | None = None

    def keep(self) -> GuestAgent | None:
        """Connect, unless connected; None when that can't be had now.

        Nothing is sent, so the agent need not be there yet.
        """
        if self.kept is None and self._path is not None:
            with contextlib.suppress(GuestCommandError):
                self.kept = GuestAgent.connect(self._path)
        return self.kept

    def close(self) -> None:
        """Leave the channel to others."""
        if self.kept is not None:
            self.kept.close()
            self.kept = None


def _refused(command: str, why: str) -> GuestCommandError:
    """The error of an answer; Red Hat's and other guests forbid their agents to run commands."""
    if "disabled" in why or "not allowed" in why:
        return GuestCommandError(
            f"the guest agent must not do {command}: {why}",
            hint="allow guest-exec and guest-exec-status in the guest (block-rpcs, allow-rpcs and "
            "blacklist of /etc/qemu/qemu-ga.conf or /etc/sysconfig/qemu-ga), or use "
            "agent: serial-shell",
            forbidden=True,
        )
    return GuestCommandError(f"guest agent, {command}: {why}")


def _result(command: str, wall: float, status: Mapping[str, Any]) -> TaskResult:
    code = status.get("exitcode", 0)
    if "signal" in status:
        code = 128 + status["signal"]
    return TaskResult(
        command, wall, code, _text(status.get("out-data")), _text(status.get("err-data"))
    )


def _text(encoded: str | None) -> str:
    return base64.b64decode(encoded or "").decode("utf-8", "replace")
