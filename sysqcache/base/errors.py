# SPDX-License-Identifier: GPL-2.0-or-later
"""The one exception tree of sysqcache.

::

    SysqcacheError              1
    +-- UsageError              2   wrong command line
    +-- ConfigError             3   vm.yaml or another input file
    +-- SetupError              4   something has to be installed or built first
    |   +-- EngineMissing       5
    |   +-- EngineBuildError    6
    |   +-- ImageMissing        7
    |   +-- ImageBuildError     8
    +-- MachineError           10   a machine in a wrong or unknown state
    |   +-- NoSuchMachine      11
    |   +-- MachineBusy        12
    |   +-- LaunchError        13   QEMU did not start
    |   +-- MachineDied        14   QEMU ended while we needed it
    |   +-- NotReady           15   the readiness probe timed out
    |   +-- QmpError           16
    |   +-- GuestCommandError  17   a command could not be run in the guest
    |   +-- DiskError          18   an image is missing, unreadable or locked
    |   +-- SavedStateError    19   a saved machine can't be used, or could not be made
    +-- StoreError             20
    |   +-- StoreVersionError  21   made by a newer version
    |   +-- StoreBusy          22
    |   +-- FormatError        23   damaged journal or pack
    |   +-- VerifyFailed       24   `cache verify` found damage
    +-- LibvirtError           30   libvirt does not answer, or refuses
    |   +-- DomainRefused      31   a domain can't have the cache, or lose it, as it is

The library raises; only ``sysqcache.cli`` prints and exits.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol


class Report(Protocol):
    """What is known of a command's outcome."""

    def to_json(self) -> dict[str, Any]:
        """The object that ``--json`` prints."""


class SysqcacheError(Exception):
    """Base of all errors: what happened, where, and what to do next.

    :param message: what happened and where, one sentence.
    :param hint: the next step for the user, or "".
    :param detail: a log tail or a list of problems, printed below the message.
    :param command: what was started, as a line for a shell; shown with ``--debug``.

    ``report``: what the command would have told, as far as it came.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self, message: str, *, hint: str = "", detail: str = "", command: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail
        self.command = command
        self.report: Report | None = None

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` prints of it as ``error``."""
        return {
            "message": self.message,
            "hint": self.hint,
            "detail": self.detail,
            "exit_code": self.exit_code,
        }


def brief(error: BaseException) -> str:
    """Any error in the words of one line, without the names of classes."""
    if isinstance(error, SysqcacheError):
        return error.message
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"internal error: {error}" if isinstance(error, Exception) else "interrupted"


class UsageError(SysqcacheError):
    """The command line can't be understood."""

    exit_code = 2


class ConfigError(SysqcacheError):
    """An input file is wrong; ``detail`` lists every problem with its line."""

    exit_code = 3


class SetupError(SysqcacheError):
    """Something has to be installed or built first."""

    exit_code = 4


class EngineMissing(SetupError):
    """No engine is built for the wanted target."""

    exit_code = 5


class EngineBuildError(SetupError):
    """The engine could not be built; the machine is as before."""

    exit_code = 6


class ImageMissing(SetupError):
    """A named image is not built yet."""

    exit_code = 7


class ImageBuildError(SetupError):
    """An image could not be built; an older one is kept."""

    exit_code = 8


class MachineError(SysqcacheError):
    """A machine is in a state that does not allow the call."""

    exit_code = 10


class NoSuchMachine(MachineError):
    """No machine has this name."""

    exit_code = 11


class MachineBusy(MachineError):
    """The machine runs already, or another command holds it."""

    exit_code = 12


class LaunchError(MachineError):
    """QEMU did not start; ``detail`` holds the end of its messages."""

    exit_code = 13


class MachineDied(MachineError):
    """QEMU ended while it was needed; the journal is kept."""

    exit_code = 14


class NotReady(MachineError):
    """The readiness probe timed out; ``detail`` holds the log tail."""

    exit_code = 15


class QmpError(MachineError):
    """A QMP command failed or timed out."""

    exit_code = 16


class GuestCommandError(MachineError):
    """A command could not be run in the guest.

    :param forbidden: the guest does not let its agent run commands.
    """

    exit_code = 17

    def __init__(
        self, message: str, *, hint: str = "", detail: str = "", forbidden: bool = False
    ) -> None:
        super().__init__(message, hint=hint, detail=detail)
        self.forbidden = forbidden


class DiskError(MachineError):
    """A disk image is missing, unreadable or locked."""

    exit_code = 18


class SavedStateError(MachineError):
    """A saved machine can't be resumed as it is, or a machine could not be saved."""

    exit_code = 19


class StoreError(SysqcacheError):
    """The block store can't be used; machines run without it."""

    exit_code = 20


class StoreVersionError(StoreError):
    """The store was made by a newer version; nothing was touched."""

    exit_code = 21


class StoreBusy(StoreError):
    """Another process holds the store's lock."""

    exit_code = 22


class FormatError(StoreError):
    """A journal or pack is damaged or foreign.

    :param reason: one of ``counters.REJECTS``.
    """

    exit_code = 23

    def __init__(self, message: str, *, reason: str = "", hint: str = "", detail: str = "") -> None:
        super().__init__(message, hint=hint, detail=detail)
        self.reason = reason


class VerifyFailed(StoreError):
    """`cache verify` found damage; nothing was changed."""

    exit_code = 24


class LibvirtError(SysqcacheError):
    """libvirt does not answer or refuses a call; the domain is as before."""

    exit_code = 30


class DomainRefused(LibvirtError):
    """A domain can't have the cache, or lose it, as it is now; nothing was touched."""

    exit_code = 31
