# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals to this process are signals to the commands in the guests."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Final

from sysqcache.run.streams import Talk

_PASSED_ON: Final = {
    signal.SIGINT: "INT",
    signal.SIGTERM: "TERM",
    signal.SIGHUP: "HUP",
    signal.SIGQUIT: "QUIT",
    signal.SIGUSR1: "USR1",
    signal.SIGUSR2: "USR2",
}
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_PATIENCE: Final = 2
"""So many requests to end a command are passed on; the next one ends its machine."""

INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 128 + signal.SIGPIPE


class GaveUp(KeyboardInterrupt):
    """The user asked once more for an end that the command does not take."""


@contextlib.contextmanager
def passing_signals(talks: Sequence[Talk]) -> Iterator[None]:
    """Pass signals on to commands; :class:`GaveUp` when that is of no use."""
    asked_to_end = 0

    def pass_on(number: int, _: FrameType | None) -> None:
        nonlocal asked_to_end
        asked_to_end += number in _ENDING
        if asked_to_end > _PATIENCE:
            raise GaveUp
        for talk in talks:
            talk.send_signal(_PASSED_ON[signal.Signals(number)])

    handled = [one for one in _PASSED_ON if signal.getsignal(one) is not signal.SIG_IGN]
    before = {one: signal.signal(one, pass_on) for one in handled}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextlib.contextmanager
def following_size(talk: Talk, terminal: int) -> Iterator[None]:
    """Tell a command's terminal whenever this one changes its size."""

    def resized(_: int, __: FrameType | None) -> None:
        columns, rows = os.get_terminal_size(terminal)
        talk.send_signal(f"size rows {rows} cols {columns}")

    before = signal.signal(signal.SIGWINCH, resized)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
