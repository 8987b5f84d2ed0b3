# SPDX-License-Identifier: GPL-2.0-or-later
"""The life of a started machine: ready, tasks, counters, end."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Protocol

from sysqcache.attribution.placer import LOOKING, AttributionSummary, Placer, Warn
from sysqcache.base import interrupts, paths
from sysqcache.base.errors import MachineDied, MachineError, NotReady, QmpError
from sysqcache.base.types import DiskMode, MachineState
from sysqcache.formats.runfiles import RunFiles
from sysqcache.machine.guest.ready import ReadyProbe, make_probe
from sysqcache.machine.helper.scan import scan_image
from sysqcache.machine.launch.process import QemuProcess, describe_exit, log_tail
from sysqcache.machine.progress import Listener, PhaseBegan, TaskFinished, Warned
from sysqcache.machine.report import BootReport, counters
from sysqcache.machine.running import Machine, StatsMonitor, serial_log
from sysqcache.spec.spec import MachineSpec
from sysqcache.spec.specjson import read_spec

_PROBE_STEP: Final = 0.1
_LOG_LINES: Final = 20
_LAST_STATS_TIMEOUT: Final = 5.0


class Until(enum.StrEnum):
    """When an attached boot ends the machine."""

    READY = "ready"
    EXIT = "exit"
    CONSOLE = "console"


@dataclasses.dataclass(frozen=True, slots=True)
class BootOptions:
    """How to boot. ``console`` is called for ``Until.CONSOLE``, with the serial socket and
    its log, and returns when the user leaves or the machine ends. ``task_timeout`` in seconds.
    """

    tasks: tuple[str, ...] = ()
    until: Until = Until.READY
    detach: bool = False
    task_timeout: float = 3600.0
    console: Callable[[Path, Path], object] | None = None


class Resumed(Protocol):
    """What a machine goes on from that did not boot."""

    def awake(self, machine: Machine) -> Iterable[str]:
        """The guest runs and is ready: tell it what is different now; what it can't be told."""

    def settled(self, machine: Machine) -> None:
        """What was asked of the machine at its start is done."""


@dataclasses.dataclass(slots=True)
class Life:
    """Goes with a machine from its first QMP answer to its end; fills in ``report``.

    :param before_leaving: what is to be done for a machine that is left running.
    """

    spec: MachineSpec
    options: BootOptions
    machine: Machine
    process: QemuProcess
    report: BootReport
    listener: Listener
    placer: Placer | None = None
    resumed: Resumed | None = None
    before_leaving: Callable[[], None] = lambda: None

    def live(self) -> None:
        """From a running QEMU to its end, or to letting go of it (``report.detached``).

        Raises :class:`NotReady`, :class:`MachineDied` and what tasks raise; QEMU still
        has to be ended then. ``KeyboardInterrupt`` is handled, see ``start.boot``; one that
        comes when QEMU was let go of is too late.
        """
        with StatsMonitor(self.machine, self.listener) as monitor:
            try:
                if self._stays(monitor):
                    return
                self._end()
            except KeyboardInterrupt:
                self._interrupted()
                self.process.kill()
        self.process.wait(10.0)

    def _stays(self, monitor: StatsMonitor) -> bool:
        """Do all that is asked of the machine; whether it was let go of then."""
        try:
            self._do()
            self._measure(monitor)
            self._look(LOOKING)
            if self.options.detach:
                self._let_go()
        except KeyboardInterrupt:
            self._interrupted()
            self._measure(monitor)
        return self.report.detached

    def _do(self) -> None:
        """From the start of the guest to the end of its tasks, or to its own end."""
        with contextlib.closing(self.machine.agent):
            self._wait_ready()
            if self.resumed is not None:
                for problem in self.resumed.awake(self.machine):
                    self._warn(problem)
            if self._leaves_sight():
                self._look(LOOKING)
            self._run_tasks()
        if self.resumed is not None:
            self.resumed.settled(self.machine)
        self._wait_until()

    def _let_go(self) -> None:
        """QEMU goes on without us, as soon as there is nothing left to do that could fail."""
        self.before_leaving()
        interrupts.too_late()
        self.process.release()
        self.report.detached = True

    def _interrupted(self) -> None:
        interrupts.take()
        self.report.interrupted = True

    def _wait_ready(self) -> None:
        self.listener(PhaseBegan("booting" if self.resumed is None else "waking up"))
        ready = self.spec.ready
        deadline = self.process.started_at + ready.timeout
        probe = self._probe()
        while not probe.wait(_PROBE_STEP):
            interrupts.check()
            if (code := self.process.poll()) is not None:
                raise self._died_early(code)
            if self.machine.watch.stopped or time.monotonic() > deadline:
                raise self._not_ready()
        self.machine.watch = self.machine.watch.from_now()
        self.report.times.ready_s = time.monotonic() - self.process.started_at
        self.report.stats_at_ready = self.machine.stats() or self.report.stats_at_ready
        if reason := self.report.stats_at_ready.reason:
            self._warn(f"the cache is not used: {reason}")
            self.placer = None  # there are no blocks to place
        self.machine.instance.update(
            state=MachineState.RUNNING,
            ready_s=self.report.times.ready_s,
            cache_reason=self.report.stats_at_ready.reason,
        )

    def _leaves_sight(self) -> bool:
        """Whether much may happen between ready and the last look."""
        return self.options.until is not Until.READY

    def _look(self, phase: str) -> None:
        """A checkpoint of whose code the guest runs."""
        if self.placer is not None and self.process.poll() is None:
            self.listener(PhaseBegan(phase))
            self.placer.look(self.machine)
            interrupts.check()

    def _warn(self, text: str) -> None:
        self.report.warnings.append(text)
        self.listener(Warned(text))

    def _probe(self) -> ReadyProbe:
        ready = self.spec.ready
        forwards = self.spec.network.forwards
        target = next(((f.address, f.host) for f in forwards if f.guest == ready.port), ("", 0))
        return make_probe(
            ready,
            serial_log=serial_log(self.machine.instance, self.machine.state),
            agent=self.machine.agent,
            target=target,
        )

    def _serial_tail(self) -> str:
        log = serial_log(self.machine.instance, self.machine.state)
        return f"end of the serial output:\n{log_tail(log, _LOG_LINES) or '(no output)'}"

    def _died_early(self, code: int) -> MachineDied:
        died = self.process.died()
        return MachineDied(
            f"{self.spec.name} ended before it was ready ({describe_exit(code)})",
            hint=died.hint,
            detail=f"{self._serial_tail()}\n\nQEMU's messages:\n{died.detail}",
            command=died.command,
        )

    def _not_ready(self) -> NotReady:
        ready, qemu = self.spec.ready, self.process
        had = (
            f"QEMU had {qemu.cpu_seconds():.1f} s of the host's processors and waited "
            f"{qemu.identity.waited_seconds():.1f} s for one"
        )
        still = self.machine.standstill()
        waited = "" if self.machine.watch.stopped else f" within {ready.timeout:g} s"
        return NotReady(
            f"{self.spec.name} was not ready{waited} ({ready.probe} probe)"
            + (f": {still.text}" if still else ""),
            hint=(still.hint if still else ready.hint) or "see ready: in vm.yaml",
            detail=f"{had}\n{self._serial_tail()}",
        )

    def _run_tasks(self) -> None:
        if self.options.tasks:
            self.machine.agent.keep()
        for command in self.options.tasks:
            self.listener(PhaseBegan(f"running {command}"))
            result = self.machine.run(command, self.options.task_timeout)
            self.report.times.tasks.append(result)
            self.listener(TaskFinished(result))

    def _wait_until(self) -> None:
        if self.options.until is Until.CONSOLE and self.options.console is not None:
            self.listener(PhaseBegan("console"))
            log = serial_log(self.machine.instance, self.machine.state)
            self.options.console(self.machine.instance.file(paths.INSTANCE_SERIAL), log)
        elif self.options.until is Until.EXIT:
            self.listener(PhaseBegan("running until the guest powers off"))
            self.machine.wait_guest_end(None)
        if self.process.poll():
            raise self.process.died()

    def _measure(self, monitor: StatsMonitor) -> None:
        """The final counters; those of the monitor if QEMU has ended."""
        stats = monitor.last
        with contextlib.suppress(QmpError, MachineDied):
            stats = self.machine.stats(_LAST_STATS_TIMEOUT) or stats
        self.report.stats = stats or self.report.stats
        self.report.times.wall_s = time.monotonic() - self.process.started_at
        self.report.times.host_cpu_s = self.process.cpu_seconds()
        self.report.own_memory = self.process.identity.own_memory()

    def _end(self) -> None:
        self.listener(PhaseBegan("powering off"))
        self.machine.instance.update(state=MachineState.STOPPING)
        persistent = any(disk.mode is DiskMode.PERSISTENT for disk in self.spec.disks)
        if persistent or self.report.interrupted or self.options.until is not Until.READY:
            self.machine.power_off(self.spec.poweroff_timeout)
        else:
            # nothing of the guest's stays: its own shutdown would only take time
            self.machine.quit()


def place_before_end(machine: Machine, warn: Warn) -> AttributionSummary:
    """Look into a machine that another command started, right before it is ended."""
    summary = AttributionSummary()
    journal = Path(machine.state.journal) if machine.state.journal else None
    if journal is not None and journal.exists():
        with contextlib.suppress(MachineError):
            if (stats := machine.stats()) is not None:
                RunFiles(journal).count(counters(stats))
        placer = Placer(RunFiles(journal), summary, warn, scan=scan_image)
        placer.look(machine)
        placer.place(_spec_of(machine), None)
    return summary


def _spec_of(machine: Machine) -> MachineSpec | None:
    """What a machine was started from, if that can still be read."""
    with contextlib.suppress(MachineError):
        return read_spec(machine.instance.file(paths.INSTANCE_SPEC))
    return None
