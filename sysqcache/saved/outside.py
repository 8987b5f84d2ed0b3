# SPDX-License-Identifier: GPL-2.0-or-later
"""What a running QEMU has that vm.yaml's own fields do not describe.

``qemu_args`` may bring disks, memory, ports and files. QEMU is asked for its disks and its
memory; the kernel knows which sockets the process listens at and which files it writes,
whatever option they came by.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.machine.launch.argv import disk_node
from sysqcache.machine.running import Machine
from sysqcache.qmp import blocknodes
from sysqcache.qmp.blocknodes import BlockNode
from sysqcache.saved.identity import devices
from sysqcache.spec.spec import Disk, MachineSpec

_LISTENS_TCP: Final = "0A"
_LISTENS_UNIX: Final = 0x10000


@dataclasses.dataclass(frozen=True, slots=True)
class Outside:
    """What else a machine has.

    :param disks: those that vm.yaml does not name.
    :param memory: why its memory is not what vm.yaml's ``memory`` makes, "" when it is.
    :param alone: ports, sockets and files that two machines can't have at the same time.
    :param plugged: a device came while it ran, or what ``qemu_args`` bring is not known.
    """

    disks: tuple[BlockNode, ...] = ()
    memory: str = ""
    alone: tuple[str, ...] = ()
    plugged: bool = False

    @property
    def written(self) -> list[BlockNode]:
        """Its disks that are written to."""
        return [disk for disk in self.disks if disk.writable]

    @property
    def unsaved(self) -> str:
        """Why no method can save the machine, "" when one can."""
        for disk in self.written:
            if disk.temporary:
                return (
                    f"what it writes to {disk.files[-1]} is in a file without a name "
                    "(snapshot=on, or deleted), which ends with QEMU"
                )
            if not disk.files:
                return f"nobody can tell whether {disk.file} was changed since"
        return ""

    @property
    def files(self) -> list[Path]:
        """Files of these disks, and of those below them."""
        return sorted({path for disk in self.disks for path in disk.files if path.is_file()})


def look(machine: Machine, spec: MachineSpec) -> Outside:
    """Ask about a running machine. Raises :class:`QmpError`."""
    made = len(devices(machine.qmp))
    return Outside(
        tuple(disk for disk in blocknodes.disks(machine.qmp) if not _is_named(disk, spec.disks)),
        _memory(machine, spec) if spec.qemu_args else "",
        tuple(_alone(machine, spec)),
        bool(spec.qemu_args) or made != machine.state.argv.count("-device"),
    )


def _is_named(disk: BlockNode, named: Sequence[Disk]) -> bool:
    return disk.name in {disk_node(index) for index in range(len(named))}


def _memory(machine: Machine, spec: MachineSpec) -> str:
    """A template's memory takes the place of the machine's default block, in vm.yaml's size."""
    name = ram_block(machine)
    sizes = {one.get("id"): one["size"] for one in machine.qmp.execute("query-memdev")}
    kind = machine.qmp.execute("qom-get", {"path": "/machine", "property": "type"})
    default = next(
        one.get("default-ram-id")
        for one in machine.qmp.execute("query-machines")
        if f"{one['name']}-machine" == kind
    )
    if name != default:
        return "its memory is made by qemu_args"
    if sizes.get(name) != spec.memory:
        return f"qemu_args give it other memory than the {spec.memory >> 20} MiB of vm.yaml"
    return ""


def ram_block(machine: Machine) -> str:
    """The name of the machine's main block of memory, "" when there are several."""
    of_machine = {"path": "/machine", "property": "memory-backend"}
    return str(machine.qmp.execute("qom-get", of_machine)).rpartition("/")[2]


def _alone(machine: Machine, spec: MachineSpec) -> Iterator[str]:
    """None when the kernel does not tell: a copy that fails is told apart all the same."""
    process = Path(f"/proc/{machine.state.pid}")
    own = {str(forward["host"]) for forward in machine.state.forwards}
    try:
        inodes = _inodes(process)
        yield from (f"port {port}" for port in _ports(process, inodes) if port not in own)
        yield from (f"socket {path}" for path in _unix_sockets(process, inodes))
        yield from (f"file {path}" for path in _written_files(process, machine, spec))
    except OSError:
        return


def _inodes(process: Path) -> set[str]:
    links = (str(link.readlink()) for link in (process / "fd").iterdir())
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def _ports(process: Path, inodes: set[str]) -> list[str]:
    """TCP ports that a process listens at."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in (process / "net" / name).read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS_TCP and fields[9] in inodes:
                found.add(int(fields[1].rpartition(":")[2], 16))
    return [str(port) for port in sorted(found)]


def _unix_sockets(process: Path, inodes: set[str]) -> list[str]:
    """Paths at which a process listens; relative ones are each machine's own."""
    found = set()
    table = (process / "net" / "unix").read_text(encoding="utf-8", errors="surrogateescape")
    for line in table.splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and int(fields[3], 16) & _LISTENS_UNIX and fields[6] in inodes:
            found.add(fields[7])
    return sorted(path for path in found if path.startswith(("/", "@")))


def _written_files(process: Path, machine: Machine, spec: MachineSpec) -> list[Path]:
    """Files that a process has open to write them, without the machine's own and its disks."""
    folders = (machine.instance.directory, paths.state_dir(), paths.store_dir())
    known = {disk.file.resolve() for disk in spec.disks}
    known |= {spec.serial_log.resolve()} if spec.serial_log else set()
    found = set()
    for link in (process / "fd").iterdir():
        path = link.readlink()
        if path in known or any(path.is_relative_to(one.resolve()) for one in folders):
            continue
        if path.is_absolute() and _writes(process / "fdinfo" / link.name) and _is_regular(path):
            found.add(path)
    return sorted(found)


def _writes(info: Path) -> bool:
    flags = next(line for line in info.read_text().splitlines() if line.startswith("flags:"))
    return int(flags.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False
