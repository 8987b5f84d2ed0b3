# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals that ask for an early end: raised, put off, or too late."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from sysqcache.base import interrupts
from sysqcache.base.interrupts import Interrupted


@pytest.fixture(autouse=True)
def handled() -> Iterator[None]:
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    interrupts.handle_signals()
    yield
    interrupts.take()
    for one, handler in before.items():
        signal.signal(one, handler)


def interrupt() -> None:
    signal.raise_signal(signal.SIGTERM)


def test_a_signal_raises() -> None:
    with pytest.raises(Interrupted):
        interrupt()
    with pytest.raises(Interrupted):
        interrupts.check()
    interrupts.take()
    interrupts.check()


def test_what_is_not_taken_half_ends_first() -> None:
    done = []
    with pytest.raises(Interrupted), interrupts.deferred():
        interrupt()
        interrupts.check()
        with interrupts.deferred():
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]
    interrupts.take()
    with interrupts.deferred():
        pass
    with pytest.raises(Interrupted):
        interrupt()


def test_an_error_is_told_rather_than_a_signal() -> None:
    with pytest.raises(ValueError, match="wrong"), interrupts.deferred():
        interrupt()
        raise ValueError("wrong")
    with pytest.raises(Interrupted):
        interrupts.check()


def test_a_signal_that_comes_too_late_ends_nothing_until_all_is_told() -> None:
    with interrupts.until_told():
        with interrupts.until_told():
            interrupts.too_late()
            interrupt()
        interrupt()
        interrupts.check()
    interrupts.check()
    with pytest.raises(Interrupted):
        interrupt()


def test_a_signal_that_comes_in_time() -> None:
    with interrupts.until_told():
        with pytest.raises(Interrupted):
            interrupt()
        with pytest.raises(Interrupted):
            interrupts.too_late()
        interrupts.take()
        with pytest.raises(Interrupted):
            interrupt()


def test_other_threads_put_nothing_off() -> None:
    def other() -> None:
        with interrupts.until_told(), interrupts.deferred():
            interrupts.too_late()
            began.set()
            done.wait(10.0)

    began, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=other)
    thread.start()
    began.wait(10.0)
    with pytest.raises(Interrupted):
        interrupt()
    done.set()
    thread.join()
