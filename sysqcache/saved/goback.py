# SPDX-License-Identifier: GPL-2.0-or-later
"""Takes a running machine back to a snapshot, or leaves its disks as they were.

QEMU takes the disks back first and reads the memory then. If that fails, the guest is
neither the old nor the new one, and its disks are the snapshot's. So all disks get a snapshot
of what they hold before, without memory; after a failure QEMU is ended, and they go back to it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sysqcache.base import interrupts
from sysqcache.base.errors import MachineDied, QmpError, SavedStateError
from sysqcache.machine.running import Machine, settle
from sysqcache.qmp import migration
from sysqcache.qmp.blocknodes import BlockNode

SAFETY: Final = "sysqcache-before-load"


def go_back(machine: Machine, name: str, disks: Sequence[BlockNode], *, known: bool) -> None:
    """Load the snapshot ``name`` into a stopped machine.

    :param known: it is the snapshot of such a machine: on a full disk, where nothing can be
        kept, it is loaded all the same.
    Raises :class:`SavedStateError`: before anything was touched, or when the machine has ended
    and its disks are as they were; the message says which.
    """
    nodes = [disk.name for disk in disks]
    # where the memory is, QEMU takes from the order
    with_memory = sorted(disks, key=lambda disk: not _state_size(disk, name))
    safe = _prepare(machine, disks, known=known)
    try:
        migration.snapshot_load(machine.qmp, name, [disk.name for disk in with_memory])
    except (QmpError, MachineDied, KeyboardInterrupt) as error:
        raise undone(machine, error, disks if safe else ()) from error
    if safe:
        migration.snapshot_delete(machine.qmp, SAFETY, nodes)


def _state_size(disk: BlockNode, name: str) -> int:
    found = disk.snapshot(name)
    return int(found["vm-state-size"]) if found is not None else 0


def _prepare(machine: Machine, disks: Sequence[BlockNode], *, known: bool) -> bool:
    """Whether the disks keep what they hold now; only without room and for a known machine not."""
    try:
        migration.require_movable(machine.qmp)
        migration.snapshot_disks(machine.qmp, SAFETY, [disk.name for disk in disks])
    except QmpError as error:
        if known and "No space left" in error.message:
            return False
        raise SavedStateError(
            f"{machine.state.name} can't go back: {error.message}; nothing was touched"
        ) from error
    return True


def undone(machine: Machine, error: BaseException, disks: Sequence[BlockNode]) -> SavedStateError:
    """End QEMU and take the disks to where they were; the error that says so."""
    interrupts.take()
    name, why = machine.state.name, getattr(error, "message", "") or "interrupted"
    machine.quit()
    # a controller in another terminal may still have to see the end
    settle(machine.instance)
    machine.instance.update(state=machine.instance.ended)
    qemu_img = Path(machine.state.argv[0]).with_name("qemu-img")
    failed = [problem for disk in disks if (problem := _revert(disk, qemu_img))]
    if not disks:
        return SavedStateError(
            f"{name} could not go back and has ended: {why}; there was no space to keep "
            "what its disks held, and they may hold what the snapshot held"
        )
    if failed:
        return SavedStateError(
            f"{name} could not go back and has ended: {why}; its disks hold what they "
            f"held before as the snapshot {SAFETY}",
            hint=f"qemu-img snapshot -a {SAFETY} {disks[0].file}",
            detail="\n".join(failed),
        )
    return SavedStateError(
        f"{name} could not go back and has ended: {why}; its disks are as they were",
        hint=f"sysqcache logs {name} --qemu shows QEMU's messages; sysqcache boot starts it afresh",
    )


def _revert(disk: BlockNode, qemu_img: Path) -> str:
    """Take an image that nobody uses back; QEMU's message if that fails. What is gone is well."""
    if not disk.files or not disk.files[0].exists():
        return ""
    for action in ("-a", "-d"):
        command = [str(qemu_img), "snapshot", action, SAFETY, str(disk.files[0])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return done.stderr.strip()
    return ""
