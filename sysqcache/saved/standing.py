# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that stands still for a command, and what the next one does if that was killed.

QEMU goes on with what it was told when the command has ended: it saves, or goes back to a
snapshot. The mark of a guest that ran before lies beside the saved machine until it runs again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.base.errors import MachineDied, QmpError
from sysqcache.machine.running import Machine
from sysqcache.qmp import blocknodes, commands, jobs, migration
from sysqcache.saved.goback import SAFETY, undone

_MARK: Final = ".standing"


@contextlib.contextmanager
def standing(machine: Machine) -> Iterator[None]:
    """The guest stands still; if it ran it runs on whatever happens, unless QEMU has ended."""
    ran = commands.query_status(machine.qmp).running
    mark = _mark(machine)
    if ran:
        with contextlib.suppress(OSError):  # a full disk: a kill would leave it standing
            mark.write_text(_process(machine))
    commands.stop(machine.qmp)
    try:
        yield
    finally:
        if ran and machine.process.poll() is None:
            with contextlib.suppress(MachineDied):
                commands.cont(machine.qmp)
        mark.unlink(missing_ok=True)


def settle_killed(machine: Machine) -> None:
    """Bring what a killed command began to its end: the guest runs on if it ran, and is whole.

    Raises :class:`SavedStateError` when it is not: QEMU has ended, its disks are as they were.
    """
    migration.settle(machine.qmp)
    failed = ""
    for job in (migration.LOAD, migration.SAVE, migration.DELETE):
        error = jobs.forget_job(machine.qmp, job)
        failed = error if job == migration.LOAD and error else failed
    disks = [disk for disk in blocknodes.disks(machine.qmp) if disk.snapshot(SAFETY)]
    if failed:
        raise undone(machine, QmpError(f"another command was killed, and {failed}"), disks)
    if disks:
        migration.snapshot_delete(machine.qmp, SAFETY, [disk.name for disk in disks])
    mark = _mark(machine)
    with contextlib.suppress(FileNotFoundError):
        if mark.read_text() == _process(machine):
            commands.cont(machine.qmp)
        mark.unlink()


def _mark(machine: Machine) -> Path:
    return machine.instance.file(paths.INSTANCE_SAVED) / _MARK


def _process(machine: Machine) -> str:
    """What no other QEMU has in common with a machine's."""
    return f"{machine.state.pid} {machine.state.pid_start}"
