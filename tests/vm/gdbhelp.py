# SPDX-License-Identifier: GPL-2.0-or-later
"""As much of GDB's remote protocol as a test of breakpoints needs."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Self

from sysqcache.base.sockets import connect_unix

_RIP = 16
"""Number of the register in QEMU's gdb-xml/i386-64bit.xml."""

STOPPED = b"T05"
"""How the answer to a trap begins."""


class Gdb:
    """A debugger on QEMU's stub; the guest is stopped from the start."""

    def __init__(self, path: Path) -> None:
        self._socket: socket.socket = connect_unix(path, 30.0)
        self._stream = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def ask(self, packet: str) -> bytes:
        """The answer to a packet, or what stops the guest after ``c`` and ``s``."""
        data = packet.encode()
        self._socket.sendall(b"$%s#%02x" % (data, sum(data) & 0xFF))
        while (byte := self._stream.read(1)) != b"$":
            assert byte in (b"+", b""), byte
            assert byte, "the stub has gone"
        answer = b""
        while (byte := self._stream.read(1)) != b"#":
            answer += byte
        self._stream.read(2)
        self._socket.sendall(b"+")
        return answer

    def pc(self) -> int:
        """Where the guest is."""
        return int.from_bytes(bytes.fromhex(self.ask(f"p{_RIP:x}").decode()), "little")

    def set_breakpoint(self, address: int) -> None:
        """Stop the guest before it runs what is there."""
        assert self.ask(f"Z0,{address:x},1") == b"OK"

    def remove_breakpoint(self, address: int) -> None:
        """Stop it there no more."""
        assert self.ask(f"z0,{address:x},1") == b"OK"

    def read(self, address: int, size: int) -> bytes:
        """Read from memory."""
        return bytes.fromhex(self.ask(f"m{address:x},{size:x}").decode())

    def write(self, address: int, data: bytes) -> None:
        """Write to memory, ROM included."""
        assert self.ask(f"M{address:x},{len(data):x}:{data.hex()}") == b"OK"

    def detach(self) -> None:
        """Let the guest run on."""
        assert self.ask("D") == b"OK"
