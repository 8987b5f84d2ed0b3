# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands in the guest of a machine: over a connection of their own, or over a kept one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final, Protocol

from sysqcache.base import paths
from sysqcache.base.errors import GuestCommandError, MachineDied
from sysqcache.base.types import GuestAccess
from sysqcache.machine.guest.agent import GuestAgent
from sysqcache.machine.guest.result import GuestShell, TaskResult
from sysqcache.machine.guest.serialshell import SerialShell
from sysqcache.machine.instances import Instance, InstanceState

_AGENT_SYNC: Final = 10.0


class Ending(Protocol):
    """A process that may end while the guest is asked."""

    def wait(self, timeout: float) -> int | None:
        """Wait for its end."""

    def died(self) -> MachineDied:
        """The error that explains its end."""


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
    instance: Instance, state: InstanceState, process: Ending, command: str, timeout: float
) -> TaskResult:
    """One command over its own connection, so that others can use the channel after it.

    Raises as :func:`run_by`.
    """
    with _explained(process):
        shell = open_shell(instance, state)
    with contextlib.closing(shell):
        return run_by(shell, process, command, timeout)


def run_by(shell: GuestShell, process: Ending, command: str, timeout: float) -> TaskResult:
    """One command over an open connection.

    Raises :class:`GuestCommandError`, or :class:`MachineDied` when QEMU ended.
    """
    with _explained(process):
        if isinstance(shell, GuestAgent) and not shell.synced and not shell.sync(_AGENT_SYNC):
            raise GuestCommandError(
                "the guest agent does not answer",
                hint="is qemu-guest-agent running in the guest, and no other client attached?",
            )
        return shell.run(command, timeout)


@contextlib.contextmanager
def _explained(process: Ending) -> Iterator[None]:
    """A channel that breaks because QEMU ended is QEMU's end."""
    try:
        yield
    except GuestCommandError:
        # the channel breaks a moment before the end of the process can be seen
        if process.wait(0.2) is not None:
            raise process.died() from None
        raise
