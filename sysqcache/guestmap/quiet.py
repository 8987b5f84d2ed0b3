# SPDX-License-Identifier: GPL-2.0-or-later
"""Attaching to a QEMU that somebody else drives, unnoticed.

The usual way asks QEMU for a dump of one byte, for the note that comes with it. That stops
and resumes the guest and says so to every QMP client, with the events STOP, RESUME and
DUMP_COMPLETED. A manager of machines takes the first two for a user's doing, and libvirtd
9.0 crashes at a DUMP_COMPLETED that it did not ask for. Here memory is read from the QEMU
process, and the note is looked for in it; nothing is sent but questions.
"""

from __future__ import annotations

import bisect
import os
import re
import socket
import struct
from pathlib import Path
from typing import Final

from sysqcache.base.errors import MachineError
from sysqcache.guestmap.flatview import MemoryRange, QmpDialog
from sysqcache.guestmap.memory import UnreadableError
from sysqcache.guestmap.session import GuestSession, SessionState, connect
from sysqcache.qmp.client import Watched, require_alive

_ADDRESS: Final = re.compile(r"is 0x([0-9a-fA-F]{1,16})\s*$")
_PLATFORMS: Final = {"x86_64": "X86_64", "aarch64": "AARCH64", "riscv64": "RISCV64"}


class QuietSession(GuestSession):
    """A session that reads guest memory out of the QEMU process.

    That takes the right to trace the process: root, or its own user where the system
    allows it.
    """

    def __init__(self, path: Path, process: Watched | None = None) -> None:
        super().__init__(path, process)
        self._memory = -1
        self._hosts: list[int] = []

    def _attach(self) -> None:
        os.environ.setdefault("DRGN_DISABLE_PLUGINS", "*")
        import drgn

        with self._explained(), connect(self._path) as connection:
            packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            dialog = QmpDialog(connection)
            self._hosts = [_host_address(dialog, part) for part in self.ranges]
            pid = struct.unpack("iII", packed)[0]
            self._memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        if self.target not in _PLATFORMS:
            raise MachineError(f"guests of architecture {self.target} can't be looked into")
        prog = drgn.Program(drgn.Platform(getattr(drgn.Architecture, _PLATFORMS[self.target])))
        for part in self.ranges:
            prog.add_memory_segment(part.start, part.end - part.start, self._segment, True)
        self._prog = prog

    def _segment(self, address: int, count: int, _offset: int, _physical: bool) -> bytes:
        """As drgn asks for memory."""
        import drgn

        try:
            return self._read(address, count)
        except UnreadableError as error:
            raise drgn.FaultError(str(error), address) from None

    def _read(self, address: int, size: int) -> bytes:
        row = bisect.bisect_right(self._starts, address) - 1
        if self._state is not SessionState.ATTACHED or self._memory < 0:
            raise MachineError("this look into a guest is closed")
        if row < 0 or address + size > self.ranges[row].end:
            raise UnreadableError(f"no memory at {address:#x}")
        place = self._hosts[row] + address - self.ranges[row].start
        try:
            data = os.pread(self._memory, size, place)
        except (OSError, OverflowError, ValueError):
            data = b""
        if len(data) != size:
            require_alive(self._process)
            raise UnreadableError(f"QEMU's memory at {address:#x} can't be read")
        return data

    def close(self) -> None:
        """Let go of QEMU; may be called twice."""
        super().close()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1


def _host_address(dialog: QmpDialog, part: MemoryRange) -> int:
    """Where a range of guest memory lies in QEMU's own; 0, where nothing is, if unknown."""
    answer = dialog.execute("human-monitor-command", **{"command-line": f"gpa2hva {part.start}"})
    found = _ADDRESS.search(str(answer).strip())
    return int(found.group(1), 16) if found else 0
