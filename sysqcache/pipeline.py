# SPDX-License-Identifier: GPL-2.0-or-later
"""The only orchestrator: a specification becomes a running QEMU, its journal kept blocks.

``boot`` holds the machine's lock, prepares disks and boot set, starts QEMU, waits until
the machine is ready, runs commands in the guest, takes the counters, ends the machine and
gives the journal to the store. Faults of the store are warnings, never errors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sysqcache import paths, progress
from sysqcache.errors import LaunchError, MachineDied, MachineError, NotReady, QmpError
from sysqcache.guest.ready import ReadyProbe, make_probe
from sysqcache.instances import Instance, InstanceState
from sysqcache.keeping import Keeper, StartSet
from sysqcache.launch import argv as qemu_argv
from sysqcache.launch.argv import Launch, TbCache
from sysqcache.launch.overlay import prepare_disks, remove_overlays
from sysqcache.launch.process import QemuProcess, log_tail
from sysqcache.machine import Machine, StatsMonitor, serial_log
from sysqcache.progress import Launched, Listener, PhaseBegan, TaskFinished, Warned
from sysqcache.qmp.client import QmpClient
from sysqcache.report import BootReport
from sysqcache.spec import Forward, MachineSpec
from sysqcache.types import CacheMode, DiskMode, MachineState, OnPoweroff

if TYPE_CHECKING:
    from sysqcache.enginebuild.info import Engine

_CONNECT_TIMEOUT: Final = 60.0
_PROBE_STEP: Final = 0.1
_LOG_LINES: Final = 20
# what a QEMU without our patches says
_UNKNOWN_OBJECT: Final = "does not accept value 'tb-cache'"


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


def boot(
    spec: MachineSpec, options: BootOptions = BootOptions(), listener: Listener = progress.ignore
) -> BootReport:
    """Start a machine and do what ``options`` ask.

    Raises any error of the tree in :mod:`sysqcache.errors`; QEMU has ended then and what it
    recorded is kept. A ``KeyboardInterrupt`` asks the guest to power off and gives a report
    with ``interrupted``; a second one kills QEMU.
    """
    return _Boot(spec, options, listener).run()


class _Boot:
    """One boot. Attributes are set in the order of :meth:`run`."""

    def __init__(self, spec: MachineSpec, options: BootOptions, listener: Listener) -> None:
        if options.detach and options.until is not Until.READY:
            raise MachineError("a detached machine is left running when it is ready")
        self.spec = _concrete_ports(spec)
        if options.until is Until.EXIT:
            # QEMU waits after the guest's end, so that the counters are complete
            self.spec = dataclasses.replace(self.spec, on_poweroff=OnPoweroff.HOLD)
        self.options = options
        self.listener = listener
        self.instance = Instance(spec.name)
        self.report = BootReport(spec.name, str(spec.arch), str(spec.cache.mode))
        self.keeper = Keeper(self.warn)
        self.start_set: StartSet | None = None

    def warn(self, text: str) -> None:
        """Note a problem that does not stop the machine."""
        self.report.warnings.append(text)
        self.listener(Warned(text))

    def run(self) -> BootReport:
        """See :func:`boot`."""
        from sysqcache.enginebuild.info import find_engine

        engine = find_engine(str(self.spec.arch))
        with self.instance.locked() as lock:
            try:
                self._prepare(engine)
                self._run_qemu(engine, lock)
            except BaseException as error:
                self._note_failure(error)
                raise
            finally:
                self._keep()
        return self.report

    def _prepare(self, engine: Engine) -> None:
        if engine.plain and self.spec.cache.mode is not CacheMode.OFF:
            self._cache_off("this engine was built without the cache")
        state = InstanceState(
            self.spec.name,
            arch=str(self.spec.arch),
            source=str(self.spec.source),
            image_id=self.spec.image_id,
            controller=os.getpid(),
            started=time.time(),
        )
        self.instance.write(state)
        if self.spec.cache.mode is not CacheMode.OFF:
            self.keeper.sweep()
        self.listener(PhaseBegan("preparing"))
        self.disks = prepare_disks(
            self.spec.disks, self.instance.file(paths.INSTANCE_OVERLAYS), engine.qemu_img
        )

    def _cache_off(self, why: str) -> None:
        self.warn(f"running with the cache off: {why}")
        self.spec = self.spec.with_cache(CacheMode.OFF)
        self.report.cache_mode = str(CacheMode.OFF)

    def _run_qemu(self, engine: Engine, lock: int) -> None:
        """Start QEMU, without the cache if the engine turns out not to know it."""
        try:
            with self._start_qemu(engine, lock) as process:
                self._connect(process)
        except LaunchError as error:
            if self.spec.cache.mode is CacheMode.OFF or _UNKNOWN_OBJECT not in error.detail:
                raise
            self._cache_off("this engine does not know it")
            with self._start_qemu(engine, lock) as process:
                self._connect(process)

    def _start_qemu(self, engine: Engine, lock: int) -> QemuProcess:
        launch = Launch(
            self.spec,
            engine.binary,
            engine.firmware_dir,
            self.instance.directory,
            self.disks,
            self._tb_cache(),
        )
        for name in (
            paths.INSTANCE_QMP,
            paths.INSTANCE_QMP_INTROSPECT,
            paths.INSTANCE_AGENT,
            paths.INSTANCE_SERIAL,
            paths.INSTANCE_SERIAL_LOG,
        ):
            self.instance.file(name).unlink(missing_ok=True)
        fds = [lock] if self.start_set is None else [lock, *self.start_set.fds]
        self.argv = qemu_argv.build(launch)
        return QemuProcess(
            self.argv, self.instance.directory, keep_fds=fds, detached=self.options.detach
        )

    def _tb_cache(self) -> TbCache | None:
        mode = self.spec.cache.mode
        if mode is CacheMode.OFF:
            return None
        if self.start_set is None:
            self.start_set = self.keeper.prepare(self.spec)
        boot_set = self.instance.file(paths.INSTANCE_BOOT_SET)
        lines = "".join(f"{pack}\n" for pack in self.start_set.packs)
        boot_set.write_text(lines, encoding="utf-8")
        return TbCache(mode, boot_set, self.start_set.journal, self.spec.cache.journal_max)

    def _connect(self, process: QemuProcess) -> None:
        """Connect to a started QEMU and go through the rest of its life."""
        self.process = process
        try:
            qmp = QmpClient.connect(
                self.instance.file(paths.INSTANCE_QMP), process=process, timeout=_CONNECT_TIMEOUT
            )
        except MachineDied:
            raise process.launch_error() from None
        with qmp:
            self.report.times.launch_s = time.monotonic() - process.started_at
            self.listener(Launched(process.pid, process.command))
            state = self._write_running(process)
            self.machine = Machine(self.instance, state, process, qmp)
            self._live()

    def _write_running(self, process: QemuProcess) -> InstanceState:
        identity = process.identity
        return self.instance.update(
            state=MachineState.STARTING,
            pid=identity.pid,
            pid_start=identity.start,
            cache_mode=str(self.spec.cache.mode),
            run_id="" if self.start_set is None else self.start_set.run.run_id,
            journal=str(self.start_set.journal or "") if self.start_set is not None else "",
            agent=str(self.spec.agent),
            serial_log=str(self.spec.serial_log or ""),
            poweroff_timeout=self.spec.poweroff_timeout,
            forwards=tuple(dataclasses.asdict(f) for f in self.spec.network.forwards),
            argv=tuple(self.argv),
        )

    def _live(self) -> None:
        """From a running QEMU to its end, or to letting go of it."""
        with StatsMonitor(self.machine, self.listener) as monitor:
            try:
                self._wait_ready()
                self._run_tasks()
                self._wait_until()
            except KeyboardInterrupt:
                self.report.interrupted = True
            self._measure(monitor)
        if self.options.detach and not self.report.interrupted:
            self.report.detached = True
            self.process.release()
        else:
            self._end()

    def _wait_ready(self) -> None:
        self.listener(PhaseBegan("booting"))
        ready = self.spec.ready
        deadline = self.process.started_at + ready.timeout
        with contextlib.closing(self._probe()) as probe:
            while not probe.wait(_PROBE_STEP):
                self.process.check_alive()
                if time.monotonic() > deadline:
                    raise self._not_ready()
        self.report.times.ready_s = time.monotonic() - self.process.started_at
        self.report.stats_at_ready = self.machine.stats() or self.report.stats_at_ready
        self.instance.update(state=MachineState.RUNNING, ready_s=self.report.times.ready_s)

    def _probe(self) -> ReadyProbe:
        ready = self.spec.ready
        forwards = self.spec.network.forwards
        target = next(((f.address, f.host) for f in forwards if f.guest == ready.port), ("", 0))
        return make_probe(
            ready,
            serial_log=serial_log(self.instance, self.machine.state),
            agent_socket=self.instance.file(paths.INSTANCE_AGENT),
            target=target,
        )

    def _not_ready(self) -> NotReady:
        ready = self.spec.ready
        log = serial_log(self.instance, self.machine.state)
        tail = log_tail(log, _LOG_LINES) or "(no output)"
        return NotReady(
            f"{self.spec.name} was not ready within {ready.timeout:g} s ({ready.probe} probe)",
            hint=ready.hint or "see ready: in vm.yaml",
            detail=f"end of the serial output:\n{tail}",
        )

    def _run_tasks(self) -> None:
        for command in self.options.tasks:
            self.listener(PhaseBegan(f"running {command}"))
            result = self.machine.run(command, self.options.task_timeout)
            self.report.times.tasks.append(result)
            self.listener(TaskFinished(result))

    def _wait_until(self) -> None:
        if self.options.until is Until.CONSOLE and self.options.console is not None:
            self.listener(PhaseBegan("console"))
            log = serial_log(self.instance, self.machine.state)
            self.options.console(self.instance.file(paths.INSTANCE_SERIAL), log)
        elif self.options.until is Until.EXIT:
            self.listener(PhaseBegan("running until the guest powers off"))
            self.machine.wait_guest_end(None)
        if self.process.poll():
            raise self.process.died()

    def _measure(self, monitor: StatsMonitor) -> None:
        """The final counters; those of the monitor if QEMU has ended."""
        stats = monitor.last
        with contextlib.suppress(QmpError, MachineDied):
            stats = self.machine.stats() or stats
        self.report.stats = stats or self.report.stats
        self.report.times.wall_s = time.monotonic() - self.process.started_at
        self.report.times.host_cpu_s = self.process.cpu_seconds()

    def _end(self) -> None:
        self.listener(PhaseBegan("powering off"))
        self.instance.update(state=MachineState.STOPPING)
        persistent = any(disk.mode is DiskMode.PERSISTENT for disk in self.spec.disks)
        try:
            if persistent or self.report.interrupted or self.options.until is not Until.READY:
                self.machine.power_off(self.spec.poweroff_timeout)
            else:
                # nothing of the guest's stays: its own shutdown would only take time
                self.machine.quit()
        except KeyboardInterrupt:
            self.report.interrupted = True
            self.process.kill()
        self.process.wait(10.0)
        self.instance.update(state=MachineState.STOPPED)
        remove_overlays(self.instance.file(paths.INSTANCE_OVERLAYS))

    def _note_failure(self, error: BaseException) -> None:
        text = getattr(error, "message", "") or type(error).__name__
        with contextlib.suppress(MachineError, OSError):
            self.instance.update(state=MachineState.STOPPED, error=text)

    def _keep(self) -> None:
        """Give the journal to the store, unless QEMU goes on."""
        if self.start_set is None:
            return
        if self.report.detached:
            self.start_set.close()
            return
        if self.start_set.journal is not None and self.start_set.journal.exists():
            self.listener(PhaseBegan("keeping blocks"))
        self.report.ingest = self.keeper.keep(self.start_set)


def _concrete_ports(spec: MachineSpec) -> MachineSpec:
    """Free host ports in place of zeros."""
    forwards = tuple(
        dataclasses.replace(f, host=f.host or _free_port(f)) for f in spec.network.forwards
    )
    return dataclasses.replace(spec, network=dataclasses.replace(spec.network, forwards=forwards))


def _free_port(forward: Forward) -> int:
    kind = socket.SOCK_STREAM if forward.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((forward.address, 0))
        return int(probe.getsockname()[1])
