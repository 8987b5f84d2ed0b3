# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals that ask for an early end, of which none is lost.

Python raises in whatever runs when a signal comes. If C has called that (a finalizer, a
callback of a weak reference as each import has one, a finder of drgn's), the exception is
printed and forgotten. So it is written down as well, and who waits asks with :func:`check`.
"""

from __future__ import annotations

import signal
import threading
from typing import Final

from sysqcache.base import terminal


class Interrupted(KeyboardInterrupt):
    """A signal asks for an early end.

    A class of its own, because CPython (3.11 to 3.14, ``run_eval_code_obj``) remembers a plain
    ``KeyboardInterrupt`` that leaves a string given to ``exec``, as the import of a module with
    data classes does, and ends the process by SIGINT even if the exception is caught.
    """


_waiting: Final[list[int]] = []
"""Signals that nobody has taken; no lock, which a handler could find taken by its own thread."""


def handle_signals() -> None:
    """Let signals raise :class:`Interrupted` in the main thread."""
    # SIGINT too: a shell's background job starts with it ignored
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    _waiting.append(number)
    if number == signal.SIGHUP:
        terminal.leave()
    raise Interrupted


def check() -> None:
    """Raise :class:`Interrupted`, in the main thread, if a signal came and was not taken."""
    if _waiting and threading.current_thread() is threading.main_thread():
        raise Interrupted


def take() -> None:
    """A signal is answered: the next one is another."""
    if threading.current_thread() is threading.main_thread():
        _waiting.clear()
