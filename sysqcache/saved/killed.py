# SPDX-License-Identifier: GPL-2.0-or-later
"""What a command that was killed began is brought to its end by the next one.

QEMU goes on alone: it saves, goes back to a snapshot or waits for a state. A guest that ran
before runs on; one that is saved already ends; one that is neither the old nor the new one
ends with its disks as they were; one that never ran ends.
"""

from __future__ import annotations

import contextlib
import time
from typing import Final

from sysqcache.base import paths
from sysqcache.base.errors import (
    MachineDied,
    MachineError,
    NoSuchMachine,
    QmpError,
    SavedStateError,
)
from sysqcache.base.files import locked
from sysqcache.base.types import MachineState
from sysqcache.machine.instances import Instance
from sysqcache.machine.launch.process import ProcessId
from sysqcache.machine.running import Machine, settle
from sysqcache.machine.standstill import Standstill
from sysqcache.qmp import blocknodes, commands, jobs, migration
from sysqcache.saved import slots, standing
from sysqcache.saved.goback import SAFETY, undone

_BUSY: Final = 60.0
_TRY: Final = 0.3


def settle_killed(machine: Machine) -> None:
    """Bring what a killed command began to its end: the guest runs on if it ran, and is whole.

    For who holds ``slots.only_one``. Raises :class:`SavedStateError` when it does not run on:
    QEMU has ended, and the machine is saved or its disks are as they were.
    """
    _end_saved(machine)
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
    mark = standing.read(machine.instance)
    if mark is not None:
        standing.leave(machine, ran=mark.is_of(machine.state))


def _end_saved(machine: Machine) -> None:
    """End a QEMU whose machine is saved whole; only the end was missing."""
    mark = standing.read(machine.instance)
    if mark is None or not mark.is_of(machine.state):
        return
    if not slots.is_current(machine.instance, mark.saving):
        return
    machine.quit()
    seal(machine.instance)
    name = machine.state.name
    raise SavedStateError(
        f"{name} is saved: the command that saved it was killed before it ended its QEMU, "
        "which has ended now",
        hint=f"sysqcache resume {name} lets it go on",
    )


def seal(instance: Instance) -> None:
    """End a ``suspend`` whose QEMU has ended: disks with a snapshot are what they are now.

    Nothing is done after another start of the machine. Raises OSError.
    """
    settle(instance)
    mark = standing.read(instance)
    if mark is None or not mark.saving or not mark.is_of(instance.read()):
        return
    if slots.is_current(instance, mark.saving) and not instance.is_held():
        slots.seal(instance.name)
        instance.update(state=MachineState.SAVED)
        standing.forget(instance)


def go_on(machine: Machine, *, patience: float = _BUSY) -> Standstill | None:
    """Let a guest run on that stands still for no reason any more; why it does not run.

    A command that saves it or takes it back is waited for, ``patience`` seconds. Raises
    :class:`MachineError`, as :func:`settle_killed`.
    """
    still = machine.standstill()
    directory = machine.instance.file(paths.INSTANCE_SAVED)
    if still is None:
        return None
    if directory.is_dir():
        with locked(directory / slots.LOCK, patience) as alone:
            if alone is None:
                return Standstill(machine.state.name, "finish-migrate")
            machine.instance.require_running()
            settle_killed(machine)
            still = machine.standstill()
    if still is not None and still.state == "io-error":
        # what failed is tried again
        commands.cont(machine.qmp)
        time.sleep(_TRY)
        still = machine.standstill()
    return still


def end_idle(name: str) -> None:
    """Make way for a resume of ``name``: what a killed command left in its place has ended.

    A machine that runs, or that another command is at, is left alone. Raises OSError.
    """
    instance = Instance(name)
    with contextlib.suppress(NoSuchMachine, MachineDied):
        if not instance.is_held():
            seal(instance)
        elif instance.is_saved():
            with locked(instance.file(paths.INSTANCE_SAVED) / slots.LOCK) as alone:
                if alone is not None:
                    _end_idle(instance)


def _end_idle(instance: Instance) -> None:
    state = instance.current()
    if not state.process.alive() or ProcessId.of(state.controller) is not None:
        return
    # a QEMU that does not answer is left alone
    with contextlib.suppress(MachineError), Machine.attach(instance.name, quick=True) as machine:
        _end_saved(machine)
        still = machine.standstill()
        starts = state.state is MachineState.STARTING and state.start != "boot"
        if starts and still is not None and still.never_ran:
            machine.quit()
            settle(instance)
