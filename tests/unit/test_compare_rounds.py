# SPDX-License-Identifier: GPL-2.0-or-later
"""Who takes turns, and what happens to ways that break."""

from __future__ import annotations

import pytest
from comparehelp import ENGINE, HOST, sample

from sysqcache.base.errors import MachineError, SavedStateError
from sysqcache.compare.events import Event, StepBegan, StepEnded
from sysqcache.compare.figures import Sample
from sysqcache.compare.result import DOMAINS, Result
from sysqcache.compare.rounds import Measured, Rounds, Step
from sysqcache.compare.ways import AnyWay, DomainWay, Way
from sysqcache.machine.progress import Listener

WAYS = (Way.COLD, Way.FILE, Way.FILE_WARM)


def result(rounds: int = 2) -> Result:
    return Result("vm", "true", rounds, HOST, ENGINE, WAYS)


def measured(way: AnyWay, number: int, _: Listener) -> Measured:
    assert isinstance(way, Way)
    return sample(way, number), ("slow",)


def fails(_: Listener) -> str:
    raise MachineError("no room")


def test_every_way_in_every_round() -> None:
    told: list[Event] = []
    made = result()
    Rounds(made, told.append, [Step("first", lambda _: "done")]).run(measured)
    assert len(made.samples) == 6
    assert [s.round for s in made.samples] == [0, 0, 0, 1, 1, 1]
    began = [event for event in told if isinstance(event, StepBegan)]
    assert [event.number for event in began] == list(range(1, 8))
    assert {event.total for event in began} == {7}
    assert StepEnded("first", "done") in told
    assert made.notes == ["cold: slow", "file: slow", "file+warm: slow"]
    assert all("took_s" in s.noise for s in made.samples)


def test_what_a_failed_step_was_for_is_left_out() -> None:
    made = result()
    Rounds(made, lambda _: None, [Step("suspend", fails, (Way.FILE, Way.FILE_WARM))]).run(measured)
    assert {s.way for s in made.samples} == {Way.COLD}
    assert made.failed == {Way.FILE: "no room", Way.FILE_WARM: "no room"}


def test_a_way_that_breaks_is_left_out_from_then_on() -> None:
    def breaks(way: AnyWay, number: int, quiet: Listener) -> Measured:
        if way is Way.FILE:
            raise MachineError("it broke")
        return measured(way, number, quiet)

    made = result()
    Rounds(made, lambda _: None, []).run(breaks)
    assert made.failed == {Way.FILE: "it broke"}
    assert len(made.samples) == 4


def test_what_nothing_can_do_without_raises() -> None:
    with pytest.raises(MachineError, match="no room"):
        Rounds(result(), lambda _: None, [Step("first boot", fails)]).run(measured)


def test_a_guest_that_is_another_one_raises() -> None:
    def check(way: AnyWay) -> None:
        raise SavedStateError(f"{way} does not know")

    with pytest.raises(SavedStateError, match="cold does not know"):
        Rounds(result(), lambda _: None, []).run(measured, check)


def test_a_domain_that_does_not_start_raises() -> None:
    def breaks(way: AnyWay, number: int, quiet: Listener) -> Measured:
        raise MachineError("it broke")

    made = Result("d", "true", 1, HOST, ENGINE, (DomainWay.COLD,), subject=DOMAINS)
    with pytest.raises(MachineError, match="it broke"):
        Rounds(made, lambda _: None, []).run(breaks)


def test_an_interruption_keeps_what_was_measured() -> None:
    found: list[Sample] = []

    def interrupted(way: AnyWay, number: int, quiet: Listener) -> Measured:
        if found:
            raise KeyboardInterrupt
        one, warnings = measured(way, number, quiet)
        found.append(one)
        return one, warnings

    made = result()
    Rounds(made, lambda _: None, []).run(interrupted)
    assert made.interrupted
    assert len(made.samples) == 1
