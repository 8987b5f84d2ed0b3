# SPDX-License-Identifier: GPL-2.0-or-later
"""What a comparison tells while it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from sysqcache.machine import progress
from sysqcache.machine.progress import PhaseBegan


@dataclasses.dataclass(frozen=True, slots=True)
class StepBegan:
    """A run or a preparation, ``number`` of ``total``, from 1."""

    number: int
    total: int
    title: str


@dataclasses.dataclass(frozen=True, slots=True)
class StepEnded:
    """The step that began last has ended with this outcome."""

    title: str
    outcome: str


@dataclasses.dataclass(frozen=True, slots=True)
class Noted:
    """Something that the reader of the result has to know."""

    text: str


Event = StepBegan | StepEnded | Noted | PhaseBegan
Listener = Callable[[Event], None]


def phases_only(listener: Listener) -> progress.Listener:
    """A listener for one machine that passes on its phases."""

    def listen(event: progress.Event) -> None:
        if isinstance(event, PhaseBegan):
            listener(event)

    return listen
