# SPDX-License-Identifier: GPL-2.0-or-later
"""When a guest has come to rest."""

from __future__ import annotations

import pytest

from sysqcache.saved import idle


class Fake:
    """A clock, and a QEMU that uses ``busy_s`` seconds of one processor and then hardly any."""

    def __init__(self, busy_s: float, share: float = 0.02, late_s: float = 0.0) -> None:
        self.now, self.busy_s, self.share, self.late_s = 100.0, busy_s, share, late_s

    def cpu_seconds(self) -> float:
        passed = self.now - 100.0
        return min(passed, self.busy_s) + self.share * max(0.0, passed - self.busy_s)

    def sleep(self, seconds: float) -> None:
        self.now += seconds + self.late_s

    def wait(self) -> tuple[bool, float]:
        came = idle.wait_until_idle(self.cpu_seconds, clock=lambda: self.now, sleep=self.sleep)
        return came, self.now - 100.0


def test_an_idle_guest_is_waited_for_one_window() -> None:
    came, waited = Fake(0.0).wait()
    assert came
    assert waited == pytest.approx(idle.WINDOW_S)


@pytest.mark.parametrize("busy_s", [0.05, 0.3, 0.75])
def test_a_busy_guest_is_waited_for_until_it_rests(busy_s: float) -> None:
    came, waited = Fake(busy_s).wait()
    assert came
    assert busy_s < waited <= busy_s + 2 * idle.WINDOW_S


@pytest.mark.parametrize("late_s", [0.0, 0.07, 3.0])
def test_one_that_stays_busy_is_not_waited_for_any_longer(late_s: float) -> None:
    came, waited = Fake(1e9, late_s=late_s).wait()
    assert not came
    assert waited < idle.LIMIT_S + idle.WINDOW_S + late_s


def test_a_processor_that_others_use_does_not_make_a_guest_idle() -> None:
    # half of one processor is what it gets, and takes
    assert not Fake(0.0, share=0.5).wait()[0]


def test_a_machine_that_is_gone_is_not_waited_for() -> None:
    assert idle.wait_until_idle(lambda: 0.0, sleep=lambda _s: None)
