# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests that stand still and answer nobody: why, by QEMU's run state, and what to do then."""

from __future__ import annotations

import dataclasses
from typing import Final

from sysqcache.base.errors import GuestCommandError
from sysqcache.qmp import commands
from sysqcache.qmp.commands import Executes

_LOG: Final = "sysqcache logs NAME shows what it said last, sysqcache stop NAME ends it"
_GO_ON: Final = "QMP's cont lets it go on, sysqcache stop NAME ends it"
_MOVED: Final = ("another command saves it, or takes it back", "wait for that command")
_NEVER_RAN: Final = (
    "it has not run yet: the command that starts it is at work, or was killed",
    "if it was killed: sysqcache stop NAME --force",
)

_WHY: Final = {
    "paused": ("it is paused", _GO_ON),
    "debug": ("a debugger has stopped it", "go on in the debugger"),
    "io-error": (
        "a disk could not be read or written, is it full?",
        "free some space, then run this again: the guest tries what failed once more",
    ),
    "guest-panicked": ("its kernel has given up", _LOG),
    "internal-error": ("QEMU can't go on", f"sysqcache logs NAME --qemu; {_LOG}"),
    "shutdown": ("it has powered off", "sysqcache stop NAME ends its QEMU"),
    "suspended": ("it sleeps (ACPI S3)", "QMP's system_wakeup wakes it up"),
    "watchdog": ("its watchdog has stopped it", _GO_ON),
    "prelaunch": _NEVER_RAN,
    "inmigrate": _NEVER_RAN,
    **dict.fromkeys(("save-vm", "restore-vm", "finish-migrate", "postmigrate"), _MOVED),
}
"""Of each state in which no guest runs: the reason and the next step."""

_FOR_GOOD: Final = ("guest-panicked", "internal-error", "shutdown", "io-error")
"""Nobody but who waits may let it go on."""


@dataclasses.dataclass(frozen=True, slots=True)
class Standstill:
    """Why a guest stands still, and what to do; ``state`` as QEMU names it."""

    name: str
    state: str

    @property
    def why(self) -> str:
        """The reason, for a sentence."""
        return _WHY.get(self.state, ("", ""))[0] or f"QEMU calls its state {self.state}"

    @property
    def hint(self) -> str:
        """The next step."""
        return _WHY.get(self.state, ("", _GO_ON))[1].replace("NAME", self.name)

    @property
    def text(self) -> str:
        """One line."""
        return f"{self.name} stands still: {self.why}"

    @property
    def for_good(self) -> bool:
        """Whether it does not help to wait."""
        return self.state in _FOR_GOOD

    def error(self) -> GuestCommandError:
        """For who wanted something of the guest."""
        return GuestCommandError(self.text, hint=self.hint)


def look(name: str, qmp: Executes) -> Standstill | None:
    """Why a machine's guest does not run; None when it does. Raises :class:`QmpError`."""
    status = commands.query_status(qmp)
    return None if status.running else Standstill(name, status.state)
