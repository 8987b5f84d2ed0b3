# SPDX-License-Identifier: GPL-2.0-or-later
"""drgn attached to a running QEMU: guest memory, and what the kernel tells of itself."""

from __future__ import annotations

import bisect
import contextlib
import enum
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

from sysqcache.base.errors import MachineError, QmpError
from sysqcache.base.sockets import connect_unix
from sysqcache.guestmap import limits
from sysqcache.guestmap.flatview import MemoryRange, QmpDialog, memory_ranges
from sysqcache.guestmap.memory import GuestMemory, PhysicalMemory, UnreadableError
from sysqcache.guestmap.targets import address_space
from sysqcache.guestmap.vmcoreinfo import VmcoreInfo, find_notes
from sysqcache.qmp.client import HANG_UP, Watched, require_alive

if TYPE_CHECKING:
    import drgn

_UTS_FIELD: Final = 65
"""Bytes of each string in struct new_utsname; the release is the third."""

_UTS_NAME: Final = 4
"""Where its name is in struct uts_namespace of kernels before Linux 5.11, which do not tell."""

_LIBVIRTS: Final = "masterKey0"
_TIMEVAL: Final = struct.pack("qq", int(limits.QMP_SECONDS), 0)


class SessionState(enum.Enum):
    """Attached or closed; nothing can be read from a closed session."""

    ATTACHED = "attached"
    CLOSED = "closed"


class Attached(PhysicalMemory, Protocol):
    """What is known of a guest before anything in its memory is followed."""

    @property
    def info(self) -> VmcoreInfo | None:
        """What the kernel tells of itself, None without one."""

    @property
    def ranges(self) -> tuple[MemoryRange, ...]:
        """The machine's memory, ascending."""

    @property
    def target(self) -> str:
        """The guest's architecture as QEMU calls it."""

    @property
    def paused_ms(self) -> float:
        """How long the guest stood still at most."""


class GuestSession:
    """Guest memory of one QEMU through drgn; a context manager.

    The guest runs on. Only while attaching, QEMU holds it for the millisecond in which
    it writes out the VMCOREINFO that the guest has published; ``paused_ms`` is an upper
    bound of that. Implements :class:`.memory.PhysicalMemory`.

    ``ranges`` is the machine's memory: nothing else is ever read, since reading device
    registers has effects. ``target`` is the guest's architecture as QEMU calls it. ``info``
    is None when no Linux kernel was found.
    """

    def __init__(self, path: Path, process: Watched | None = None) -> None:
        self.info: VmcoreInfo | None = None
        self.paused_ms = 0.0
        self._path = path
        self._process = process
        with self._explained(), connect(path) as connection:
            dialog = QmpDialog(connection)
            self.ranges = memory_ranges(dialog)
            self.target = str(dialog.execute("query-target")["arch"])
            self._libvirts = _is_libvirts(dialog)
        self._starts = [part.start for part in self.ranges]
        self._state = SessionState.ATTACHED
        self._prog: drgn.Program | None = None
        self._symbols: drgn.SymbolIndex | None = None

    @classmethod
    def open(cls, path: Path, process: Watched | None = None) -> Self:
        """Attach to the QEMU whose spare QMP socket is ``path``.

        ``process`` explains the end of QEMU. Raises :class:`QmpError` when the socket does
        not answer, which is also what happens while another client uses it, and
        :class:`MachineDied`.
        """
        session = cls(path, process)
        try:
            session._attach()
            session._find_kernel()
        except BaseException:
            session.close()
            raise
        return session

    def _attach(self) -> None:
        if self._libvirts:
            raise MachineError(
                "this QEMU is libvirt's, which would not survive the dump of it",
                hint="sysqcache map --libvirt DOMAIN",
            )
        # other packages' plugins have no business here, and looking for them takes 150 ms
        os.environ.setdefault("DRGN_DISABLE_PLUGINS", "*")
        import drgn

        with self._explained(), connect(self._path) as connection:
            # drgn waits without a timeout of its own; the kernel's works on its reads too
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL)
            prog = drgn.Program()
            start = time.perf_counter()
            # the descriptor is drgn's from here on
            prog.set_qemu_qmp(os.dup(connection.fileno()))
            self.paused_ms = 1000 * (time.perf_counter() - start)
        self._prog = prog

    def _find_kernel(self) -> None:
        if self._is_linux():
            self.info = VmcoreInfo.parse(self.program["VMCOREINFO"].string_())
            return
        # the guest has published nothing: look for the note in its memory
        ram = [(part.start, part.end) for part in self.ranges if not part.rom]
        for raw in find_notes(self, ram):
            info = VmcoreInfo.parse(raw)
            if is_alive(self, self.target, info):
                with self._explained():
                    self.program.set_linux_kernel_custom(info.raw, is_live=True)
                self.info = info
                return
            if info.is_narrow:
                self.info = info  # said to be there, and never walked

    def _is_linux(self) -> bool:
        import drgn

        return bool(self.program.flags & drgn.ProgramFlags.IS_LINUX_KERNEL)

    @property
    def program(self) -> drgn.Program:
        """The drgn program, for drgn's own helpers; raises :class:`MachineError` when closed."""
        if self._state is not SessionState.ATTACHED or self._prog is None:
            raise MachineError("this look into a guest is closed")
        return self._prog

    def symbol_index(self) -> drgn.SymbolIndex:
        """All symbols of a trusted guest's kernel, by drgn, read at the first call.

        Raises :class:`UnreadableError` when there is no symbol table that can be read.
        """
        if self._symbols is not None:
            return self._symbols
        import drgn
        from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms

        prog = self.program
        with self._explained():
            try:
                self._symbols = load_vmlinux_kallsyms(prog)
            except (drgn.FaultError, ValueError, LookupError, OverflowError, MemoryError) as error:
                require_alive(self._process)
                raise UnreadableError(f"no readable symbol table: {error}") from None
        return self._symbols

    def read_physical(self, address: int, size: int) -> bytes:
        """Guest-physical memory; raises :class:`UnreadableError` outside RAM and ROM.

        Raises :class:`MachineDied` when QEMU has ended, :class:`MachineError` when it no
        longer lets its memory be read.
        """
        row = bisect.bisect_right(self._starts, address) - 1
        if row < 0 or size < 0 or address >= self.ranges[row].end:
            raise UnreadableError(f"no memory at {address:#x}")
        if address + size > self.ranges[row].end:
            # ranges may touch each other, such as RAM and the ROM in its middle
            here = self.ranges[row].end - address
            rest = self.read_physical(address + here, size - here)
            return self.read_physical(address, here) + rest
        return self._read(address, size)

    def _read(self, address: int, size: int) -> bytes:
        import drgn

        prog = self.program
        with self._explained():
            try:
                data: bytes = prog.read(address, size, True)
                return data
            except drgn.FaultError:
                require_alive(self._process)
                raise UnreadableError(f"QEMU can't read {address:#x}") from None

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Whatever goes wrong when QEMU is talked to: has it ended?"""
        try:
            yield
        except UnreadableError:
            raise
        except QmpError:
            require_alive(self._process, HANG_UP)
            raise
        # drgn raises plain Exception for what goes wrong with QMP
        except Exception as error:
            require_alive(self._process, HANG_UP)
            raise MachineError(f"the guest's memory can't be read: {error}") from error

    def close(self) -> None:
        """Let go of QEMU; may be called twice."""
        self._state = SessionState.CLOSED
        # QEMU serves one client a socket: the next one gets in when drgn closes it
        self._prog = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_libvirts(dialog: QmpDialog) -> bool:
    """Whether libvirt drives a QEMU: it gives each one a secret of this name."""
    objects = dialog.execute("qom-list", path="/objects")
    return any(entry["name"] == _LIBVIRTS for entry in objects)


def connect(path: Path) -> socket.socket:
    """A connection to a QMP socket. Raises :class:`QmpError`."""
    try:
        return connect_unix(path, limits.QMP_SECONDS)
    except OSError as error:
        raise QmpError(f"can't connect to {path}: {error.strerror or error}") from None


def is_alive(memory: PhysicalMemory, target: str, info: VmcoreInfo) -> bool:
    """True when the kernel that wrote this note is the one in memory.

    A note may be left from before a reboot, or from another kernel. The one that is alive
    has its release where its own page tables say.
    """
    try:
        guest = GuestMemory(memory, address_space(target, info))
        name = info.symbols["init_uts_ns"] + info.offsets.get("uts_namespace.name", _UTS_NAME)
        release = guest.string(name + 2 * _UTS_FIELD, _UTS_FIELD)
        return bool(release) and release == info.release
    except (UnreadableError, KeyError):
        return False
