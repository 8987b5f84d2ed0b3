# SPDX-License-Identifier: GPL-2.0-or-later
"""Typed events of a machine's start; a progress line is one listener of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from sysqcache.machine.guest.result import TaskResult
from sysqcache.qmp.commands import TbCacheStats


@dataclasses.dataclass(frozen=True, slots=True)
class PhaseBegan:
    """A new phase, such as ``booting``."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Launched:
    """QEMU answers; ``command`` can be pasted into a shell."""

    pid: int
    command: str


@dataclasses.dataclass(frozen=True, slots=True)
class StatsUpdated:
    """Counters of the cache, about twice a second."""

    stats: TbCacheStats


@dataclasses.dataclass(frozen=True, slots=True)
class TaskFinished:
    """A command in the guest has ended."""

    result: TaskResult


@dataclasses.dataclass(frozen=True, slots=True)
class Warned:
    """Something does not work as wished; the machine goes on."""

    text: str


Event = PhaseBegan | Launched | StatsUpdated | TaskFinished | Warned
Listener = Callable[[Event], None]


def ignore(event: object) -> None:
    """The listener that does nothing."""
