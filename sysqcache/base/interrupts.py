# SPDX-License-Identifier: GPL-2.0-or-later
"""Signals that ask for an early end, of which none is lost.

Python raises in whatever runs when a signal comes. If C has called that (a finalizer, a
callback of a weak reference as each import has one, a finder of drgn's), the exception is
printed and forgotten. So it is written down as well, and who waits asks with :func:`check`.

Some steps must not be taken half: in them a signal is written down only (:func:`deferred`), as it
is when there is nothing left that it could end (:func:`too_late`).
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
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


_deferring: Final[list[None]] = []
"""One for each block in which a signal does not raise."""

_scopes: Final[list[contextlib.ExitStack]] = []
"""Of :func:`until_told`, the outermost first."""


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
    if not _deferring:
        raise Interrupted


def _is_main() -> bool:
    """Whether signals raise in this thread."""
    return threading.current_thread() is threading.main_thread()


def check() -> None:
    """Raise :class:`Interrupted`, in the main thread, if a signal came and was not taken."""
    if _waiting and not _deferring and _is_main():
        raise Interrupted


def take() -> None:
    """A signal is answered: the next one is another."""
    if _is_main():
        _waiting.clear()


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """A signal that comes meanwhile raises :class:`Interrupted` at the end of the block."""
    with _written_down() if _is_main() else contextlib.nullcontext():
        yield
    check()


@contextlib.contextmanager
def _written_down() -> Iterator[None]:
    _deferring.append(None)
    try:
        yield
    finally:
        _deferring.pop()


@contextlib.contextmanager
def until_told() -> Iterator[None]:
    """A command and all that it has to say: its outermost block ends :func:`too_late`."""
    if not _is_main():
        yield
        return
    with contextlib.ExitStack() as scope:
        _scopes.append(scope)
        try:
            yield
        finally:
            _scopes.pop()


def too_late() -> None:
    """There is nothing left that a signal could end: none raises until all is told.

    For within :func:`until_told`. Raises :class:`Interrupted` if one came before.
    """
    check()
    if _scopes and _is_main():
        _scopes[0].callback(take)
        _scopes[0].enter_context(_written_down())
