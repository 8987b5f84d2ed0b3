# SPDX-License-Identifier: GPL-2.0-or-later
"""Many copies of a template: in which order they get the processors."""

from __future__ import annotations

import contextlib
import threading

from sysqcache.attribution.placer import LOOKING
from sysqcache.machine import progress
from sysqcache.machine.progress import PhaseBegan
from sysqcache.saved.resume import _Gate

TASK = PhaseBegan("running true")


class Copy(threading.Thread):
    """A copy that wakes up, does its task and is looked into."""

    def __init__(self, gate: _Gate) -> None:
        super().__init__(daemon=True)
        self.gate = gate
        self.told: list[str] = []
        self.awake = threading.Event()

    def tell(self, event: progress.Event) -> None:
        assert isinstance(event, PhaseBegan)
        self.told.append(event.name)
        if event == TASK:
            self.awake.set()

    def run(self) -> None:
        with self.gate.place(self.tell) as passing:
            passing(PhaseBegan("waking up"))
            passing(TASK)
            passing(PhaseBegan(LOOKING))

    def looked_into(self) -> bool:
        self.join(0.1)
        return not self.is_alive()


def test_nobody_is_looked_into_before_all_are_awake() -> None:
    gate = _Gate(3)
    first, second = Copy(gate), Copy(gate)
    for copy in (first, second):
        copy.start()
        assert copy.awake.wait(5)
    assert not first.looked_into()
    # one that fails does not keep the others waiting
    with contextlib.suppress(RuntimeError), gate.place(progress.ignore) as passing:
        passing(PhaseBegan("waking up"))
        assert not first.looked_into()
        raise RuntimeError
    for copy in (first, second):
        copy.join(5)
        assert copy.told == ["waking up", TASK.name, "waiting for the other copies", LOOKING]


def test_one_copy_waits_for_nobody() -> None:
    copy = Copy(_Gate(1))
    copy.start()
    copy.join(5)
    assert copy.told == ["waking up", TASK.name, LOOKING]
