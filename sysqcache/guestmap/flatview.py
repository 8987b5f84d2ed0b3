# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a machine has memory, asked over a QMP connection that is used for nothing else."""

from __future__ import annotations

import dataclasses
import json
import re
import socket
from collections.abc import Mapping
from typing import Any, Final

from sysqcache.base.errors import QmpError

_VIEW: Final = re.compile(r"FlatView #\d+\r?\n(.*?)(?=FlatView #|\Z)", re.DOTALL)
_RANGE: Final = re.compile(
    r"^ {2}([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (ram|rom|romd)\): ([^\r\n]*)", re.MULTILINE
)
_MOST: Final = 8 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class MemoryRange:
    """Guest-physical memory from ``start`` up to ``end``; ``rom``: the guest can't write it."""

    start: int
    end: int
    rom: bool
    name: str = ""


def parse_flat_views(text: str) -> tuple[MemoryRange, ...]:
    """The memory that the CPUs see, from the answer to ``info mtree -f``, ascending."""
    for view in _VIEW.findall(text):
        if 'AS "memory"' in view:
            return tuple(
                MemoryRange(int(start, 16), int(end, 16) + 1, kind != "ram", name.split(" @")[0])
                for start, end, kind, name in _RANGE.findall(view)
            )
    return ()


class QmpDialog:
    """A few commands, one after another, on a connected socket with a timeout set.

    Raises :class:`QmpError` when QEMU does not answer in time, or hangs up.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""
        self._answer("QMP")
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: object) -> Any:
        """The answer of one command."""
        message: dict[str, object] = {"execute": command}
        if arguments:
            message["arguments"] = arguments
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise QmpError(f"QMP {command}: {error}") from None
        return self._answer("return")

    def monitor(self, line: str) -> str:
        """The answer of a command of the human monitor."""
        return str(self.execute("human-monitor-command", **{"command-line": line}))

    def _answer(self, key: str) -> Any:
        while True:
            value = self._line()
            if key in value:
                return value[key]
            if "error" in value:
                raise QmpError(f"QMP: {value['error']}")

    def _line(self) -> Mapping[str, Any]:
        while b"\n" not in self._buffer:
            try:
                more = self._connection.recv(65536)
            except TimeoutError:
                raise QmpError(
                    "QMP: no answer", hint="does another command use this machine just now?"
                ) from None
            except OSError as error:
                raise QmpError(f"QMP: {error}") from None
            if not more or len(self._buffer) > _MOST:
                raise QmpError("QMP: the connection was lost")
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        value = json.loads(line)
        return value if isinstance(value, dict) else {}


def memory_ranges(dialog: QmpDialog) -> tuple[MemoryRange, ...]:
    """Ask for the machine's memory; raises :class:`QmpError`."""
    return parse_flat_views(dialog.monitor("info mtree -f"))
