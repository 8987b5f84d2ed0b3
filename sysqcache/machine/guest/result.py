# SPDX-License-Identifier: GPL-2.0-or-later
"""What a command in the guest gave back."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol


@dataclasses.dataclass(frozen=True, slots=True)
class TaskResult:
    """One finished command; ``wall_s`` from sending it to knowing its exit status.

    ``exit`` is the command's exit status, 128 + the number for a signal.
    """

    cmd: str
    wall_s: float
    exit: int
    stdout: str
    stderr: str

    def to_json(self) -> dict[str, Any]:
        """An entry of ``times.tasks``."""
        return dataclasses.asdict(self)


class GuestShell(Protocol):
    """A way to run commands in the guest."""

    def run(self, command: str, timeout: float) -> TaskResult:
        """Run a shell command and wait for it."""

    def power_off(self) -> None:
        """Ask the guest to power off; returns at once."""

    def hang_up(self) -> None:
        """Let who waits for an answer wait no longer; from any thread, while it is open."""

    def close(self) -> None:
        """Close the connection."""
