# SPDX-License-Identifier: GPL-2.0-or-later
"""A saved machine as something that a new QEMU process can go on from."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from sysqcache.base.errors import QmpError, SavedStateError
from sysqcache.base.files import replace_file
from sysqcache.base.types import DiskMode
from sysqcache.machine.launch.argv import Incoming, disk_node
from sysqcache.machine.running import Machine
from sysqcache.qmp import commands, migration
from sysqcache.saved import disks, touched
from sysqcache.saved.record import Method, SavedDisk, SavedMachine
from sysqcache.saved.slots import STATE, TOUCHED
from sysqcache.spec.spec import Disk


@dataclasses.dataclass(frozen=True)
class SavedOrigin:
    """Implements :class:`sysqcache.machine.start.Origin` for a checked saved machine."""

    record: SavedMachine
    directory: Path

    @property
    def start(self) -> str:
        """The method by which it was saved."""
        return str(self.record.method)

    @property
    def incoming(self) -> Incoming:
        """What QEMU has to be started with."""
        match self.record.method:
            case Method.INTERNAL:
                return Incoming(migration=False)
            case Method.FILE:
                return Incoming(migration=True)
            case Method.TEMPLATE:
                name, _, offset = self.record.ram
                return Incoming(True, self.directory / STATE, offset, name)

    def prepare_disks(self, overlays: Path, qemu_img: Path) -> tuple[Disk, ...]:
        """Fresh overlays over the frozen disks."""
        record = self.record
        return disks.thaw(record.disks, record.method, self.directory, overlays, qemu_img)

    def load(self, machine: Machine) -> None:
        """Load the state and let the guest run."""
        try:
            if self.record.method is Method.INTERNAL:
                migration.snapshot_load(machine.qmp, self.record.tag, self.nodes())
            else:
                migration.load_from_file(machine.qmp, self.directory / STATE)
        except QmpError as error:
            raise SavedStateError(
                f"the saved machine {self.record.name} can't be resumed: {error.message}",
                hint=f"sysqcache boot starts it afresh; sysqcache logs {machine.state.name} "
                "shows QEMU's messages",
            ) from error
        machine.instance.update(waits=False)
        commands.cont(machine.qmp)

    def nodes(self) -> list[str]:
        """Names of the disks that hold the snapshot."""
        return snapshot_nodes(self.record.disks)

    @property
    def touched(self) -> Path | None:
        """The list of pages that the last machine from here touched, if there is one."""
        path = self.directory / TOUCHED
        return path if self.record.method is Method.TEMPLATE and path.is_file() else None

    @property
    def many(self) -> bool:
        """A machine that goes on alone."""
        return False

    def awake(self, machine: Machine) -> Iterable[str]:
        """Nothing is different for a machine that goes on alone."""
        return ()

    def settled(self, machine: Machine) -> None:
        """Note which pages of a template were touched; without the list the next is slower."""
        if self.record.method is not Method.TEMPLATE:
            return
        _, size, offset = self.record.ram
        with contextlib.suppress(OSError):
            content = touched.observe(machine.state.pid, self.directory / STATE, offset, size)
            replace_file(self.directory / TOUCHED, content)


def snapshot_nodes(saved: Sequence[SavedDisk | Disk]) -> list[str]:
    """Names of the disks that an internal snapshot is in: all that are written to."""
    return [disk_node(i) for i, disk in enumerate(saved) if disk.mode != DiskMode.READ_ONLY]
