# SPDX-License-Identifier: GPL-2.0-or-later
"""Who waits for a guest's answer hears when that guest is no more, and why.

A guest that is reset forgets what it was asked, and its channels stay open: nothing but QEMU's
events tells. The same holds for one that powers off while QEMU stays, and for a kernel that
gives up.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from sysqcache.base import paths
from sysqcache.base.errors import GuestCommandError, MachineDied, MachineError, QmpError
from sysqcache.machine.instances import Instance, InstanceState
from sysqcache.qmp.client import QmpClient
from sysqcache.qmp.events import Event, EventLog

_LOST: Final = {
    "RESET": "was reset",
    "SHUTDOWN": "powered off",
    "GUEST_PANICKED": "gave up (kernel panic)",
}
"""The events after which no answer comes, as a guest's fate."""

_CONNECT: Final = 3.0
_BROKEN: Final = 0.2
_ENDS: Final = 10.0
"""Seconds for the end of QEMU: after a channel broke, which comes a moment before it, and after
it said that it ends."""


class Ending(Protocol):
    """A process that may end while the guest is asked."""

    def wait(self, timeout: float) -> int | None:
        """Wait for its end."""

    def died(self) -> MachineDied:
        """The error that explains its end."""


@dataclasses.dataclass(frozen=True, slots=True)
class Watch:
    """A machine whose guest is asked.

    :param events: what its QEMU says; None when nobody can hear it, but for its end.
    :param after: number of the event before which a reset is of no importance.
    """

    state: InstanceState
    process: Ending
    events: EventLog | None = None
    after: int = 0

    @classmethod
    @contextlib.contextmanager
    def over(cls, instance: Instance, state: InstanceState) -> Iterator[Watch]:
        """Of a machine that another command started, by the QMP socket that is for that."""
        process, socket = instance.watched(state), instance.file(paths.INSTANCE_QMP_EVENTS)
        with contextlib.ExitStack() as stack:
            events = None
            # one that an earlier version started has no such socket
            if socket.exists():
                with contextlib.suppress(QmpError):
                    qmp = QmpClient.connect(socket, process=process, timeout=_CONNECT)
                    events = stack.enter_context(qmp).events
            yield cls(state, process, events)

    def from_now(self) -> Watch:
        """The same, for a guest that has just answered."""
        after = self.events.position if self.events is not None else 0
        return dataclasses.replace(self, after=after)

    @property
    def news(self) -> Event | None:
        """The event that is the end of what the guest was asked."""
        return self.events.find(_LOST, self.after) if self.events is not None else None

    @property
    def stopped(self) -> bool:
        """Whether QEMU stays with a guest that has powered off or given up, and runs it no more."""
        if self.events is None:
            return False
        news = self.events.find(("SHUTDOWN", "GUEST_PANICKED"))
        return news is not None and news.data.get("action") != "run" and not self._ends(news)

    @contextlib.contextmanager
    def explaining(self, command: str, hang_up: Callable[[], None] | None = None) -> Iterator[None]:
        """A channel that breaks tells what became of the guest, or of QEMU.

        :param hang_up: breaks the channel when the guest is no more.
        Raises :class:`GuestCommandError`, or :class:`MachineDied` when QEMU ended.
        """
        try:
            with self._telling(hang_up):
                yield
        except GuestCommandError as error:
            news = self.news if hang_up is not None else None
            raise self._error(news, command, error) from None

    def _telling(
        self, hang_up: Callable[[], None] | None
    ) -> contextlib.AbstractContextManager[None]:
        if self.events is None or hang_up is None:
            return contextlib.nullcontext()
        return self.events.telling(_LOST, hang_up, self.after)

    def _error(self, news: Event | None, command: str, error: GuestCommandError) -> MachineError:
        ended = None
        if news is None or self._ends(news):
            ended = self.process.wait(_BROKEN if news is None else _ENDS)
        died = self.process.died() if ended is not None else None
        if news is None or not _by_guest(news):
            return died or error
        text = f"{self.state.name} {_LOST[news.name]} while a command ran in it: {command}"
        if died is not None:
            died.message = text
            return died
        return GuestCommandError(text, hint=self._hint(news), detail=error.detail)

    def _ends(self, news: Event) -> bool:
        """Whether QEMU ends after an event."""
        ends = news.name == "SHUTDOWN" or news.data.get("action") == "poweroff"
        return ends and not self.state.holds

    def _hint(self, news: Event) -> str:
        name = self.state.name
        if news.name != "RESET":
            return f"sysqcache logs {name} shows what it said last, sysqcache stop {name} ends QEMU"
        return (
            f"sysqcache logs {name} shows what it said before; a command that is to reset the "
            "guest has to end first: (sleep 1; reboot -f) &"
        )


def _by_guest(news: Event) -> bool:
    """False for the end of a QEMU that somebody else ended."""
    return news.name != "SHUTDOWN" or bool(news.data.get("guest"))
