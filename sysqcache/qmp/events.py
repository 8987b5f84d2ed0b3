# SPDX-License-Identifier: GPL-2.0-or-later
"""QMP events: kept as they arrive, waited for with a timeout."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

_KEPT: Final = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One event; ``number`` counts from 1 on this connection, ``at`` is Unix time."""

    number: int
    name: str
    data: Mapping[str, Any]
    at: float

    @classmethod
    def from_message(cls, number: int, message: Mapping[str, Any]) -> Event:
        """The event in a QMP message."""
        stamp = message.get("timestamp", {})
        at = float(stamp.get("seconds", 0)) + float(stamp.get("microseconds", 0)) / 1e6
        return cls(number, str(message["event"]), message.get("data", {}), at)


class EventLog:
    """The last events of a connection; written by its thread, read by any.

    A waiter that asks for events after :attr:`position` as it was before a command can't
    miss what that command causes.
    """

    def __init__(self) -> None:
        self._events: collections.deque[Event] = collections.deque(maxlen=_KEPT)
        self._changed = threading.Condition()
        self._told: dict[Callable[[], None], Collection[str]] = {}
        self.position = 0
        """Number of the newest event, 0 before the first."""
        self.closed = False
        """True when no more events can come."""

    def add(self, message: Mapping[str, Any]) -> None:
        """Keep one event and wake the waiters."""
        with self._changed:
            self.position += 1
            event = Event.from_message(self.position, message)
            self._events.append(event)
            for call, names in self._told.items():
                if event.name in names:
                    call()
            self._changed.notify_all()

    def close(self) -> None:
        """No more events will come: waiters return."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    @contextlib.contextmanager
    def telling(
        self, names: Collection[str], call: Callable[[], None], after: int = 0
    ) -> Iterator[None]:
        """While it lasts, events of these names after the position call ``call``, not after it.

        It is called by the thread that adds them, or by this one if there are some already; it
        must neither raise nor wait.
        """
        with self._changed:
            self._told[call] = names
            if self.find(names, after) is not None:
                call()
        try:
            yield
        finally:
            with self._changed:
                del self._told[call]

    def find(
        self,
        names: Collection[str],
        after: int = 0,
        accept: Callable[[Event], bool] = lambda event: True,
    ) -> Event | None:
        """The first kept event of these names after the position, or None."""
        for event in tuple(self._events):
            if event.number > after and event.name in names and accept(event):
                return event
        return None

    def wait(
        self,
        names: Collection[str],
        timeout: float,
        after: int = 0,
        accept: Callable[[Event], bool] = lambda event: True,
    ) -> Event | None:
        """Like :meth:`find`, waiting; None on timeout or when the connection closed."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                if (event := self.find(names, after, accept)) is not None or self.closed:
                    return event
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return self.find(names, after, accept)
