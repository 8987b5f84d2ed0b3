# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands in the guest of a machine: over a connection of their own, or over a kept one."""

from __future__ import annotations

import contextlib
from typing import Final

from sysqcache.base import paths
from sysqcache.base.errors import GuestCommandError
from sysqcache.base.types import GuestAccess
from sysqcache.machine.guest.agent import GuestAgent
from sysqcache.machine.guest.result import GuestShell, TaskResult
from sysqcache.machine.guest.serialshell import SerialShell
from sysqcache.machine.instances import Instance, InstanceState
from sysqcache.machine.watch import Watch

_AGENT_SYNC: Final = 10.0


def open_shell(instance: Instance, state: InstanceState) -> GuestShell:
    """A connection for commands in the guest; raises :class:`GuestCommandError`."""
    match GuestAccess(state.agent):
        case GuestAccess.GUEST_AGENT:
            return GuestAgent.connect(instance.file(paths.INSTANCE_AGENT))
        case GuestAccess.SERIAL_SHELL:
            return SerialShell.connect(instance.file(paths.INSTANCE_SERIAL))
        case GuestAccess.NONE:
            raise GuestCommandError(
                f"{state.name} has no way to run commands in the guest",
                hint="set agent: guest-agent or agent: serial-shell in vm.yaml",
            )


def run_in_guest(
    instance: Instance, state: InstanceState, watch: Watch, command: str, timeout: float
) -> TaskResult:
    """One command over its own connection, so that others can use the channel after it.

    Raises as :func:`run_by`.
    """
    with watch.explaining(command):
        shell = open_shell(instance, state)
    with contextlib.closing(shell):
        return run_by(shell, watch, command, timeout)


def run_by(shell: GuestShell, watch: Watch, command: str, timeout: float) -> TaskResult:
    """One command over an open connection.

    Raises :class:`GuestCommandError`, at once when the guest that ran it is no more, or
    :class:`MachineDied` when QEMU ended.
    """
    if isinstance(shell, GuestAgent) and not shell.synced:
        with watch.explaining(command):
            _sync(shell)
        watch = watch.from_now()
    with watch.explaining(command, shell.hang_up):
        return shell.run(command, timeout)


def _sync(agent: GuestAgent) -> None:
    if not agent.sync(_AGENT_SYNC):
        raise GuestCommandError(
            "the guest agent does not answer",
            hint="is qemu-guest-agent running in the guest, and no other client attached?",
        )
