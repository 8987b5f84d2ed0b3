# SPDX-License-Identifier: GPL-2.0-or-later
"""A running machine that can be talked to, by its controller or by another command."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol, Self

from sysqcache.base import interrupts, paths
from sysqcache.base.errors import GuestCommandError, MachineDied, MachineError, QmpError
from sysqcache.base.types import GuestAccess
from sysqcache.machine import standstill
from sysqcache.machine.guest.agent import GuestAgent, KeptAgent
from sysqcache.machine.guest.result import TaskResult
from sysqcache.machine.instances import ForeignProcess, Instance, InstanceState
from sysqcache.machine.launch.process import ProcessId
from sysqcache.machine.progress import Listener, StatsUpdated
from sysqcache.machine.shell import open_shell, run_by, run_in_guest
from sysqcache.machine.standstill import Standstill
from sysqcache.machine.watch import Ending, Watch
from sysqcache.qmp import commands
from sysqcache.qmp.client import DEFAULT_TIMEOUT, QmpClient, Watched
from sysqcache.qmp.commands import TbCacheStats

TASK_TIMEOUT: Final = 3600.0
_AGENT_QUICK_SYNC: Final = 2.0
_BUTTON_AFTER: Final = 10.0
_QUIT_TIMEOUT: Final = 10.0
_STATS_INTERVAL: Final = 0.5
_TERM_TIMEOUT: Final = 10.0
_PATIENCE: Final = (0.3, 1.0, 4.0)
_SETTLE_SECONDS: Final = 30.0
_SETTLE_STEP: Final = 0.02
_ENDED: Final = ("SHUTDOWN",)


class Process(Watched, Ending, Protocol):
    """QEMU, our child or not."""

    def cpu_seconds(self) -> float:
        """Its CPU time."""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""


class Machine:
    """QMP and the guest of one running machine.

    ``agent``: commands go over this connection while it is kept, else each over one of its own.
    ``watch``: a reset that it tells of is the end of all that the guest was asked.
    """

    def __init__(
        self, instance: Instance, state: InstanceState, process: Process, qmp: QmpClient
    ) -> None:
        self.instance = instance
        self.state = state
        self.process = process
        self.qmp = qmp
        self.watch = Watch(state, process, qmp.events)
        channel = state.agent == GuestAccess.GUEST_AGENT
        self.agent = KeptAgent(instance.file(paths.INSTANCE_AGENT) if channel else None)

    @classmethod
    def attach(cls, name: str, *, quick: bool = False) -> Self:
        """The machine ``name``, started by another command, through the QMP socket that is free.

        ``quick``: give up after three seconds instead of eleven.
        Raises :class:`MachineError` when it does not run, :class:`QmpError` when other
        programs hold both sockets or QEMU does not answer.
        """
        instance = Instance(name)
        state = instance.require_running()
        process = instance.watched(state)
        patience = _PATIENCE[:2] if quick else _PATIENCE
        return cls(instance, state, process, _connect(instance, state, process, patience))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.agent.close()
        self.qmp.close()

    def stats(self, timeout: float = DEFAULT_TIMEOUT) -> TbCacheStats | None:
        """The cache's counters; None when the machine runs without the cache."""
        return commands.query_tb_cache(self.qmp, timeout)

    def run(self, command: str, timeout: float = TASK_TIMEOUT) -> TaskResult:
        """Run a shell command in the guest.

        Raises :class:`GuestCommandError`, at once when the guest that ran it is no more, or
        :class:`MachineDied` when QEMU ended.
        """
        if (still := self.standstill()) is not None and still.for_good:
            raise still.error()
        try:
            return self._run(command, timeout)
        except GuestCommandError as error:
            if self.watch.news is not None or (still := self.standstill()) is None:
                raise
            raise GuestCommandError(f"{error.message}: {still.text}", hint=still.hint) from error

    def _run(self, command: str, timeout: float) -> TaskResult:
        kept = self.agent.kept
        if kept is None:
            return run_in_guest(self.instance, self.state, self.watch, command, timeout)
        try:
            return run_by(kept, self.watch, command, timeout)
        except MachineError:
            # what is left of an answer would be taken for the next one's
            self.agent.close()
            raise

    def standstill(self) -> Standstill | None:
        """Why the guest does not run; None when it does, or when nobody can tell."""
        with contextlib.suppress(QmpError, MachineDied):
            return standstill.look(self.state.name, self.qmp)
        return None

    def power_off(self, timeout: float) -> str:
        """End the machine: ask the guest, then QEMU, then the kernel.

        :returns: who ended it: ``guest``, ``quit`` or ``kill``. QEMU has ended then.
        """
        with contextlib.ExitStack() as stack:
            if not self._ask_guest(stack):
                self._press_button()
            # a guest that does not react in time may still know the button
            patience = min(timeout, _BUTTON_AFTER)
            ended = self.wait_guest_end(patience)
            if not ended:
                self._press_button()
                ended = self.wait_guest_end(timeout - patience)
        how = self.quit()
        return "guest" if ended else how

    def _ask_guest(self, stack: contextlib.ExitStack) -> bool:
        """Ask by the guest's own channel, which has to stay open until the guest read it."""
        self.agent.close()
        try:
            shell = open_shell(self.instance, self.state)
            stack.callback(shell.close)
            if isinstance(shell, GuestAgent) and not shell.sync(_AGENT_QUICK_SYNC):
                return False
            shell.power_off()
        except GuestCommandError:
            return False
        return True

    def _press_button(self) -> None:
        with contextlib.suppress(QmpError, MachineDied):
            commands.powerdown(self.qmp)

    def wait_guest_end(self, timeout: float | None) -> bool:
        """Wait until the guest has powered off; False on timeout."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._is_shut_down():
            return True
        while self.process.poll() is None and self.qmp.events.find(_ENDED) is None:
            interrupts.check()
            left = 0.5 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            self.qmp.events.wait(_ENDED, min(left, 0.5))
            if self.qmp.events.closed:
                self.process.wait(min(left, 0.5))
        return True

    def _is_shut_down(self) -> bool:
        """True when the guest has powered off before we could hear of it."""
        with contextlib.suppress(QmpError, MachineDied):
            return commands.query_status(self.qmp).state == "shutdown"
        return False

    def quit(self) -> str:
        """End QEMU whatever the guest does; returns ``quit`` or ``kill``."""
        if self.process.poll() is None:
            with contextlib.suppress(QmpError, MachineDied):
                commands.quit_qemu(self.qmp)
            self.process.wait(_QUIT_TIMEOUT)
        if self.process.poll() is not None:
            return "quit"
        self.process.signal(signal.SIGKILL)
        self.process.wait(_QUIT_TIMEOUT)
        return "kill"


def _connect(
    instance: Instance,
    state: InstanceState,
    process: ForeignProcess,
    patience: Sequence[float],
) -> QmpClient:
    """A connection by one of QEMU's two QMP sockets; each has one client at a time.

    The main one belongs to the controller as long as that lives, and is free after
    ``--detach``; the spare one may be held by a map, or by anything else.
    """
    sockets = [instance.file(paths.INSTANCE_QMP), instance.file(paths.INSTANCE_QMP_INTROSPECT)]
    if ProcessId.of(state.controller) is not None:
        sockets.reverse()
    # a held socket takes the connection and says nothing, as a busy QEMU does: look at
    # both in turn, with more patience each time
    for seconds in patience:
        for socket in sockets:
            with contextlib.suppress(QmpError):
                return QmpClient.connect(socket, process=process, timeout=seconds)
    raise QmpError(
        f"{state.name} does not answer: its QMP sockets are in use, or QEMU hangs",
        hint=f"sysqcache stop {state.name} --force ends it all the same",
    )


def end_by_signals(name: str) -> str:
    """End a machine that can't be talked to: QEMU closes its files, or else is killed.

    :returns: ``signal`` or ``kill``. Raises :class:`MachineError` when it does not run.
    """
    instance = Instance(name)
    process = instance.watched(instance.require_running())
    process.signal(signal.SIGTERM)
    if process.wait(_TERM_TIMEOUT) is not None:
        return "signal"
    process.signal(signal.SIGKILL)
    process.wait(_QUIT_TIMEOUT)
    return "kill"


class StatsMonitor:
    """Asks for the counters twice a second and tells a listener; keeps the last ones."""

    def __init__(self, machine: Machine, listener: Listener) -> None:
        self._machine = machine
        self._listener = listener
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stats", daemon=True)
        self.last: TbCacheStats | None = None

    def _run(self) -> None:
        while not self._stop.wait(_STATS_INTERVAL):
            try:
                stats = self._machine.stats()
            except MachineError:
                return
            if stats is None:
                return
            self.last = stats
            self._listener(StatsUpdated(stats))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(2.0)


def serial_log(instance: Instance, state: InstanceState) -> Path:
    """The file with all output of the serial port."""
    return Path(state.serial_log) if state.serial_log else instance.file(paths.INSTANCE_SERIAL_LOG)


def settle(instance: Instance) -> None:
    """Wait for a controller in another terminal to finish, then remove what it left."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while instance.is_held() and time.monotonic() < deadline:
        time.sleep(_SETTLE_STEP)
    if not instance.is_held():
        instance.tidy()
