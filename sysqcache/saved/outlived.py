# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots that `suspend` left inside of disks and that no machine can go on from any more.

A machine that is saved anew needs the snapshot of the time before no longer, once the new one is
the saved machine: no record names it then, so a kill at any point leaves it or takes it away
whole. Whatever stayed is found by its name, by the next `suspend`.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sysqcache.base.errors import (
    EngineMissing,
    MachineDied,
    MachineError,
    QmpError,
    SavedStateError,
)
from sysqcache.base.types import DiskMode
from sysqcache.machine.instances import Instance
from sysqcache.machine.running import Machine
from sysqcache.qmp import blocknodes, migration
from sysqcache.qmp.blocknodes import BlockNode
from sysqcache.saved import slots
from sysqcache.saved.qcow2snapshot import is_at_snapshot
from sysqcache.saved.record import FileIdentity, SavedMachine


def remove(machine: Machine) -> str:
    """Take out of a machine's disks what no saved machine needs; why something stays, or "".

    For who holds ``slots.only_one``. What is saved can be resumed as before.
    """
    try:
        disks = blocknodes.disks(machine.qmp)
        for tag in _useless(machine.instance, disks):
            holding = [disk.name for disk in disks if disk.snapshot(tag)]
            migration.snapshot_delete(machine.qmp, tag, holding)
    except (QmpError, MachineDied, OSError) as error:
        return getattr(error, "message", "") or str(error)
    return ""


def _useless(instance: Instance, disks: Sequence[BlockNode]) -> Iterator[str]:
    """Names of snapshots that may go."""
    found = {str(one["name"]) for disk in disks for one in disk.snapshots}
    left = sorted(tag for tag in found - slots.tags() if slots.id_of(tag))
    frozen = list(_frozen()) if left else []
    for tag in left:
        holding = [disk for disk in disks if disk.snapshot(tag)]
        files = [disk.files[0] for disk in holding if disk.files]
        is_own = slots.holds(instance, slots.id_of(tag))
        if (is_own or not _is_at(files, tag)) and not _is_frozen(files, frozen):
            yield tag


def _is_at(files: Iterable[Path], tag: str) -> bool:
    """Whether a disk is as a snapshot holds it: others, of another home, may still go on from it.

    Once it was written to, everybody would refuse that.
    """
    try:
        return any(is_at_snapshot(file, tag) for file in files)
    except (SavedStateError, OSError):
        return True


def _frozen() -> Iterator[FileIdentity]:
    """What files are like that saved machines need to be so."""
    for name in slots.names():
        with contextlib.suppress(MachineError):
            record, _ = slots.current(name)
            for disk in record.disks:
                # who goes back to the snapshot in it does not ask what else it holds
                free = disk.file if record.tag and disk.mode != DiskMode.READ_ONLY else ""
                yield from (one for path, one in disk.chain.items() if path != free)


def _is_frozen(files: Iterable[Path], frozen: Sequence[FileIdentity]) -> bool:
    """Whether a saved machine could not be resumed any more if one of these files changed."""
    return any(FileIdentity.of(file) in frozen for file in files)


def forget(record: SavedMachine) -> None:
    """Take the snapshot of a machine that is saved no more out of the disks that stay.

    What can't be done now, as when another machine has such a disk, the next `suspend` does.
    """
    if not record.tag:
        return
    if Instance(record.name).is_held():
        with (
            contextlib.suppress(MachineError),
            slots.only_one(Instance(record.name)),
            Machine.attach(record.name, quick=True) as machine,
        ):
            remove(machine)
        return
    with contextlib.suppress(EngineMissing, OSError):
        _forget_in_files(record)


def _forget_in_files(record: SavedMachine) -> None:
    """In disks that no QEMU has; qemu-img does not touch one that a QEMU has."""
    from sysqcache.spec.engines import find_engine

    files = [Path(disk.file) for disk in record.disks if disk.mode == DiskMode.PERSISTENT]
    if not files:
        return
    qemu_img, frozen = find_engine(str(record.spec.arch)).qemu_img, list(_frozen())
    for file in files:
        if not _is_frozen([file], frozen):
            command = [str(qemu_img), "snapshot", "-d", record.tag, str(file)]
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
