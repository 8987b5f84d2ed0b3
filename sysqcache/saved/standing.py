# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that stands still for a command, marked for who comes after it if that is killed.

QEMU goes on with what it was told when the command has ended: it saves, or goes back to a
snapshot. The mark lies beside the saved machine until all is done. ``killed`` reads it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from sysqcache.base import paths
from sysqcache.base.errors import MachineDied
from sysqcache.base.files import replace_file
from sysqcache.base.statefile import DAMAGED_JSON
from sysqcache.machine.instances import Instance, InstanceState
from sysqcache.machine.running import Machine
from sysqcache.qmp import commands

_MARK: Final = ".standing"


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """What a command wrote down that let a guest stand still.

    :param process: what no other QEMU has in common with the machine's.
    :param ran: whether the guest was not stopped by somebody else before.
    :param saving: id of the saved machine that it is to become, "" for none.
    :param snapshot: in its disks, which is nothing yet if the command was killed; "" for none.
    """

    process: str
    ran: bool = True
    saving: str = ""
    snapshot: str = ""

    @classmethod
    def of(cls, machine: Machine, *, saving: str = "", snapshot: str = "") -> Self:
        """For a machine as it is now. Raises :class:`QmpError`."""
        ran = commands.query_status(machine.qmp).running
        return cls(_process(machine.state), ran, saving, snapshot)

    def is_of(self, state: InstanceState) -> bool:
        """Whether it was written for the QEMU of this state."""
        return self.process == _process(state)


@contextlib.contextmanager
def standing(machine: Machine, snapshot: str = "") -> Iterator[None]:
    """The guest stands still; if it ran it runs on whatever happens, unless QEMU has ended.

    :param snapshot: that the disks get, whose mark stays: the caller has more to do for it.
    """
    mark = stand(machine, Mark.of(machine, snapshot=snapshot))
    try:
        yield
    finally:
        if machine.process.poll() is None:
            with contextlib.suppress(MachineDied):
                leave(machine, mark)
        if not snapshot:
            forget(machine.instance)


def stand(machine: Machine, mark: Mark) -> Mark:
    """Stop the guest, when the mark is written. Raises :class:`QmpError`."""
    with contextlib.suppress(OSError):  # a full disk: a kill would leave it standing
        text = json.dumps(dataclasses.asdict(mark))
        replace_file(_file(machine.instance), text.encode())
    commands.stop(machine.qmp)
    return mark


def leave(machine: Machine, mark: Mark) -> None:
    """Let the guest run on if it ran before, and else not. Raises :class:`QmpError`."""
    act = commands.cont if mark.ran else commands.stop
    act(machine.qmp)


def read(instance: Instance) -> Mark | None:
    """The mark, if there is one; it may be an earlier QEMU's. Raises OSError."""
    try:
        return Mark(**json.loads(_file(instance).read_bytes()))
    except (FileNotFoundError, NotADirectoryError, *DAMAGED_JSON):
        return None


def forget(instance: Instance) -> None:
    """Remove the mark. Raises OSError."""
    _file(instance).unlink(missing_ok=True)


def _file(instance: Instance) -> Path:
    return instance.file(paths.INSTANCE_SAVED) / _MARK


def _process(state: InstanceState) -> str:
    return f"{state.pid} {state.pid_start}"
