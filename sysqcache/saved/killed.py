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

from sysqcache.base import files, paths
from sysqcache.base.errors import MachineBusy, MachineError, QmpError, SavedStateError
from sysqcache.base.files import locked
from sysqcache.machine.instances import Instance
from sysqcache.machine.launch.process import ProcessId
from sysqcache.machine.running import Machine, settle
from sysqcache.machine.standstill import Standstill
from sysqcache.qmp import blocknodes, commands, jobs, migration
from sysqcache.saved import outlived, slots, standing
from sysqcache.saved.goback import SAFETY, undone

_BUSY: Final = 60.0
_TRY: Final = 0.3
_POLL: Final = 0.05


def settle_killed(machine: Machine) -> None:
    """Bring what a killed command began to its end: the guest runs on if it ran, and is whole.

    For who holds ``slots.only_one``. Raises :class:`SavedStateError` when it does not run on:
    QEMU has ended, and the machine is saved or its disks are as they were.
    """
    _end_saved(machine)
    _end_waiting(machine)
    migration.settle(machine.qmp)
    failed = ""
    for job in (migration.LOAD, migration.SAVE, migration.DELETE):
        error = jobs.forget_job(machine.qmp, job)
        failed = error if job == migration.LOAD and error else failed
    if failed:
        disks = [disk for disk in blocknodes.disks(machine.qmp) if disk.snapshot(SAFETY)]
        raise undone(machine, QmpError(f"another command was killed, and {failed}"), disks)
    _delete(machine, SAFETY)
    mark = standing.read(machine.instance)
    if mark is not None and mark.is_of(machine.state):
        # nobody has written down yet which machine it belongs to
        _delete(machine, mark.snapshot)
        standing.leave(machine, mark)
    standing.forget(machine.instance)


def _delete(machine: Machine, name: str) -> None:
    """Take a snapshot that nobody will go back to out of the disks that have it."""
    nodes = [disk.name for disk in blocknodes.disks(machine.qmp) if disk.snapshot(name)]
    if nodes:
        migration.snapshot_delete(machine.qmp, name, nodes)


def _end_saved(machine: Machine) -> None:
    """End a QEMU whose machine is saved whole; only the end was missing."""
    mark = standing.read(machine.instance)
    if mark is None or not mark.is_of(machine.state):
        return
    if not slots.is_current(machine.instance, mark.saving):
        return
    if mark.snapshot:
        outlived.remove(machine)
    _quit(machine)
    slots.seal(machine.state.name)
    standing.forget(machine.instance)
    name = machine.state.name
    raise SavedStateError(
        f"{name} is saved: the command that saved it was killed before it ended its QEMU, "
        "which has ended now",
        hint=f"sysqcache resume {name} lets it go on",
    )


def _end_waiting(machine: Machine) -> None:
    """End a QEMU whose guest nobody will let run. Nothing is lost: it is saved still."""
    state = machine.instance.read()
    if not state.waits:
        return
    if ProcessId.of(state.controller) is not None:
        raise MachineBusy(f"another command resumes {state.name}")
    _quit(machine)
    raise SavedStateError(
        f"{state.name} had not gone on yet: the command that resumed it was killed, and its "
        "QEMU has ended now",
        hint=f"sysqcache resume {state.name} lets it go on",
    )


def _quit(machine: Machine) -> None:
    machine.quit()
    settle(machine.instance)
    machine.instance.update(state=machine.instance.ended, waits=False)


def go_on(machine: Machine, *, patience: float = _BUSY) -> Standstill | None:
    """Let a guest run on that stands still for no reason any more; why it does not run.

    A command that saves it or lets it go on is waited for, ``patience`` seconds. Raises
    :class:`MachineError`, as :func:`settle_killed`.
    """
    still = machine.standstill()
    if still is None:
        return None
    directory = machine.instance.file(paths.INSTANCE_SAVED)
    if directory.is_dir() or machine.state.waits:
        files.make_directory(directory)
        with locked(directory / slots.LOCK, patience) as alone:
            if alone is None:
                return Standstill(machine.state.name, "finish-migrate")
            machine.instance.require_running()
            _await_resume(machine.instance, patience)
            settle_killed(machine)
            still = machine.standstill()
    if still is not None and still.state == "io-error":
        # what failed is tried again
        commands.cont(machine.qmp)
        time.sleep(_TRY)
        still = machine.standstill()
    return still


def _await_resume(instance: Instance, patience: float) -> None:
    """Wait for a command that is about to let the guest go on."""
    deadline = time.monotonic() + patience
    while (state := instance.read()).waits and time.monotonic() < deadline:
        if ProcessId.of(state.controller) is None:
            return
        time.sleep(_POLL)


def end_idle(name: str) -> None:
    """Make way for a resume of ``name``: what a killed command left in its place has ended.

    A machine that runs, or that another command is at, is left alone. Raises OSError.
    """
    instance = Instance(name)
    if not instance.is_saved() or not instance.is_held():
        return
    # a QEMU that does not answer is left alone
    with (
        contextlib.suppress(MachineError),
        locked(instance.file(paths.INSTANCE_SAVED) / slots.LOCK) as alone,
    ):
        if alone is not None:
            with Machine.attach(name, quick=True) as machine:
                _end_saved(machine)
                _end_waiting(machine)
