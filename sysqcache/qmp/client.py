# SPDX-License-Identifier: GPL-2.0-or-later
"""A blocking facade over the asynchronous client of qemu.qmp.

Each connection runs its own event loop in a thread; callers wait with timeouts. A QEMU
that ends while a caller waits is explained by the process object given to it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, Self, TypeVar

from qemu.qmp import EventListener, ExecuteError, QMPClient, QMPError

from sysqcache.base.errors import MachineDied, QmpError
from sysqcache.base.sockets import connect_unix
from sysqcache.qmp.events import EventLog

T = TypeVar("T")

DEFAULT_TIMEOUT: Final = 10.0
HANG_UP: Final = 1.0
"""Seconds in which QEMU ends after it hung up, if it does."""

_CONNECT_POLL: Final = 0.002
_END_POLL: Final = 0.005
_READ_LIMIT: Final = 64 * 1024 * 1024

# its errors reach the user as our exceptions; nothing goes to stderr by itself
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())


class Watched(Protocol):
    """A process that may end while we wait for its answer."""

    def poll(self) -> int | None:
        """The return code once it has ended, else None."""

    def died(self) -> MachineDied:
        """The error that explains its end."""


def require_alive(process: Watched | None, patience: float = 0.0) -> None:
    """Raise :class:`MachineDied` when a process has ended, at the latest after ``patience``.

    A hang-up comes a moment before the end of the process can be seen.
    """
    deadline = time.monotonic() + patience
    while process is not None:
        if process.poll() is not None:
            raise process.died()
        if time.monotonic() > deadline:
            return
        time.sleep(_END_POLL)


class CommandRefusedError(QmpError):
    """QEMU refused a command; ``error_class`` as in the QMP specification."""

    def __init__(self, command: str, error_class: str, description: str) -> None:
        super().__init__(f"QMP {command}: {description}")
        self.command = command
        self.error_class = error_class


class QmpClient:
    """One QMP connection.

    All methods may be called from any thread. After :meth:`close`, or when QEMU hung up,
    every call raises :class:`QmpError` or, if the process ended, :class:`MachineDied`.
    """

    def __init__(self, process: Watched | None = None) -> None:
        self.events = EventLog()
        self._process = process
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        self._client = QMPClient("sysqcache", readbuflen=_READ_LIMIT)
        self._pump: concurrent.futures.Future[None] | None = None
        self._closed = False

    @classmethod
    def connect(
        cls, path: Path, *, process: Watched | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> Self:
        """Connect to the socket ``path``, waiting until it listens and greets.

        Raises :class:`QmpError` on timeout (QEMU talks to one client a socket, so this
        is also what a second client sees) and :class:`MachineDied`.
        """
        deadline = time.monotonic() + timeout
        client = cls(process)
        client._thread.start()
        try:
            connection = client._connect_socket(path, deadline)
            left = max(0.01, deadline - time.monotonic())
            client._run(client._client.connect(connection), left, "connecting")
            client._pump = asyncio.run_coroutine_threadsafe(client._read_events(), client._loop)
        except BaseException:
            client.close()
            raise
        return client

    def _connect_socket(self, path: Path, deadline: float) -> Any:
        while True:
            try:
                connection = connect_unix(path, max(0.01, deadline - time.monotonic()))
                connection.setblocking(False)
                return connection
            except OSError as error:
                require_alive(self._process)
                if time.monotonic() > deadline:
                    raise QmpError(f"can't connect to {path}: {error.strerror}") from None
            time.sleep(_CONNECT_POLL)

    def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Any:
        """The answer of one command.

        Raises :class:`CommandRefusedError` when QEMU refuses it, :class:`QmpError` when no
        answer comes in ``timeout`` seconds, :class:`MachineDied` when QEMU ended.
        """
        if self._closed:
            require_alive(self._process)
            raise QmpError(f"QMP {command}: the connection is closed")
        return self._run(self._client.execute(command, arguments), timeout, command)

    def _run(self, work: Coroutine[Any, Any, T], timeout: float, what: str) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except concurrent.futures.TimeoutError:
            future.cancel()
            require_alive(self._process)
            raise QmpError(f"QMP {what}: no answer within {timeout:g} s") from None
        except ExecuteError as error:
            raise CommandRefusedError(what, error.error_class, str(error)) from None
        except (QMPError, OSError, EOFError) as error:
            require_alive(self._process, HANG_UP)
            raise QmpError(f"QMP {what}: the connection was lost: {error}") from None

    async def _read_events(self) -> None:
        listener = EventListener()
        self._client.register_listener(listener)
        ended = asyncio.ensure_future(self._wait_end())
        try:
            while not ended.done():
                getter = asyncio.ensure_future(listener.get())
                await asyncio.wait({getter, ended}, return_when=asyncio.FIRST_COMPLETED)
                if getter.done():
                    self.events.add(getter.result())
                else:
                    getter.cancel()
        finally:
            ended.cancel()
            self.events.close()

    async def _wait_end(self) -> None:
        from qemu.qmp import Runstate

        while self._client.runstate == Runstate.RUNNING:
            await self._client.runstate_changed()

    def close(self) -> None:
        """Hang up; QEMU goes on. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._thread.is_alive():
            with contextlib.suppress(Exception):
                asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result(2.0)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(2.0)
        self.events.close()
        if not self._loop.is_running():
            self._loop.close()

    async def _hang_up(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._client.disconnect()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
