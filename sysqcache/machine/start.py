# SPDX-License-Identifier: GPL-2.0-or-later
"""The only orchestrator: a specification becomes a running QEMU, its journal kept blocks.

``boot`` holds the machine's lock, prepares disks and boot set, starts QEMU, waits until
the machine is ready, runs commands in the guest, takes the counters, ends the machine and
gives the journal to the store. Faults of the store are warnings, never errors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from sysqcache.attribution.placer import Placer
from sysqcache.base import paths
from sysqcache.base.counters import DAMAGE
from sysqcache.base.errors import LaunchError, MachineDied, MachineError
from sysqcache.base.types import CacheMode, MachineState, OnPoweroff
from sysqcache.machine import progress
from sysqcache.machine.cache import Keeper, StartSet
from sysqcache.machine.instances import Instance, InstanceState
from sysqcache.machine.launch import argv as qemu_argv
from sysqcache.machine.launch.argv import Incoming, Launch, TbCache
from sysqcache.machine.launch.firmware import require_firmware
from sysqcache.machine.launch.overlay import prepare_disks, remove_overlays
from sysqcache.machine.launch.ports import free_port
from sysqcache.machine.launch.process import QemuProcess
from sysqcache.machine.life import BootOptions, Life, Resumed, Until
from sysqcache.machine.progress import Launched, Listener, PhaseBegan, Warned
from sysqcache.machine.report import BootReport, counters
from sysqcache.machine.running import Machine
from sysqcache.qmp.client import QmpClient
from sysqcache.spec.spec import Disk, MachineSpec
from sysqcache.spec.specjson import write_spec

if TYPE_CHECKING:
    from sysqcache.spec.engines import Engine

_CONNECT_TIMEOUT: Final = 60.0
# what a QEMU without our patches says
_UNKNOWN_OBJECT: Final = "does not accept value 'tb-cache'"


_DEFAULTS: Final = BootOptions()

__all__ = ["BootOptions", "Origin", "Until", "boot", "start_saved"]


class Origin(Resumed, Protocol):
    """Where a machine comes from that does not boot."""

    @property
    def start(self) -> str:
        """How it starts, as in the JSON of ``resume``."""

    @property
    def directory(self) -> Path:
        """Of the saved machine."""

    @property
    def incoming(self) -> Incoming:
        """What QEMU has to be started with."""

    def prepare_disks(self, overlays: Path, qemu_img: Path) -> tuple[Disk, ...]:
        """The disks to give to QEMU. Raises :class:`MachineError`."""

    def load(self, machine: Machine) -> None:
        """Make the paused machine what it was. Raises :class:`MachineError`."""

    @property
    def touched(self) -> Path | None:
        """The list of guest memory to touch ahead of the guest."""

    @property
    def many(self) -> bool:
        """Whether it is one of several machines on this host: memory before speed."""


def boot(
    spec: MachineSpec, options: BootOptions = _DEFAULTS, listener: Listener = progress.ignore
) -> BootReport:
    """Start a machine and do what ``options`` ask.

    Raises any error of the tree in :mod:`sysqcache.base.errors`; QEMU has ended then and what it
    recorded is kept. A ``KeyboardInterrupt`` asks the guest to power off and gives a report
    with ``interrupted``; a second one kills QEMU.
    """
    return _Start(spec, options, listener).run()


def start_saved(
    spec: MachineSpec,
    origin: Origin,
    options: BootOptions = _DEFAULTS,
    listener: Listener = progress.ignore,
    engine: Engine | None = None,
) -> BootReport:
    """As :func:`boot`, for a machine that goes on where it was saved.

    :param engine: by default the one that a boot would use.
    """
    return _Start(spec, options, listener, origin).run(engine)


class _Start:
    """One start of a machine. Attributes are set in the order of :meth:`run`."""

    def __init__(
        self,
        spec: MachineSpec,
        options: BootOptions,
        listener: Listener,
        origin: Origin | None = None,
    ) -> None:
        if options.detach and options.until is not Until.READY:
            raise MachineError("a detached machine is left running when it is ready")
        self.origin = origin
        self.original = spec
        self.spec = _concrete_ports(spec)
        if options.until is Until.EXIT:
            # QEMU waits after the guest's end, so that the counters are complete
            self.spec = dataclasses.replace(self.spec, on_poweroff=OnPoweroff.HOLD)
        self.options = options
        self.listener = listener
        self.instance = Instance(spec.name)
        start = origin.start if origin is not None else "boot"
        self.report = BootReport(spec.name, str(spec.arch), str(spec.cache.mode), start)
        self.keeper = Keeper(self.warn, progress=lambda phase: self.listener(PhaseBegan(phase)))
        self.start_set: StartSet | None = None
        self.placer: Placer | None = None

    def warn(self, text: str) -> None:
        """Note a problem that does not stop the machine."""
        self.report.warnings.append(text)
        self.listener(Warned(text))

    def run(self, engine: Engine | None = None) -> BootReport:
        """See :func:`boot`."""
        from sysqcache.spec.engines import find_engine

        engine = engine or find_engine(str(self.spec.arch))
        self.firmware = engine.firmware_dir
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
            start=self.report.start,
            saved_from=str(self.origin.directory) if self.origin is not None else "",
        )
        self.instance.write(state)
        write_spec(self.instance.file(paths.INSTANCE_SPEC), self.original)
        if self.spec.cache.mode is not CacheMode.OFF:
            self.keeper.sweep()
        self.listener(PhaseBegan("preparing"))
        require_firmware(self.spec, engine.firmware_dir)
        overlays = self.instance.file(paths.INSTANCE_OVERLAYS)
        if self.origin is not None:
            self.disks = self.origin.prepare_disks(overlays, engine.qemu_img)
        else:
            self.disks = prepare_disks(self.spec.disks, overlays, engine.qemu_img)

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
            self._tb_cache(engine),
            None if self.origin is None else self.origin.incoming,
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

    def _tb_cache(self, engine: Engine) -> TbCache | None:
        mode = self.spec.cache.mode
        if mode is CacheMode.OFF:
            return None
        if self.start_set is None:
            self.start_set = self.keeper.prepare(self.spec, self.report.start)
        boot_set = self.instance.file(paths.INSTANCE_BOOT_SET)
        lines = "".join(f"{pack}\n" for pack in self.start_set.packs)
        boot_set.write_text(lines, encoding="utf-8")
        # a saved machine's engine may be one that does not know these yet
        origin = self.origin if engine.current else None
        return TbCache(
            mode,
            boot_set,
            self.start_set.journal,
            self.spec.cache.journal_max,
            touched=origin.touched if origin is not None else None,
            small_pages=origin is not None and origin.many,
        )

    def _connect(self, process: QemuProcess) -> None:
        """Connect to a started QEMU and go through the rest of its life."""
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
            machine = Machine(self.instance, state, process, qmp)
            if self.origin is not None:
                self.listener(PhaseBegan("resuming"))
                # connected as it was when it was saved, so that the guest sees no hang-up
                machine.agent.keep()
                self.origin.load(machine)
            placer = self._placer()
            Life(
                self.spec,
                self.options,
                machine,
                process,
                self.report,
                self.listener,
                placer,
                self.origin,
            ).live()
            if placer is not None and self.report.detached:
                placer.place(self.spec, self.firmware)
        if not self.report.detached:
            ended = MachineState.SAVED if self.instance.is_saved() else MachineState.STOPPED
            self.instance.update(state=ended)
            remove_overlays(self.instance.file(paths.INSTANCE_OVERLAYS))

    def _placer(self) -> Placer | None:
        """Who finds out whose the recorded blocks are; nobody when nothing is recorded."""
        if self.start_set is None or self.start_set.journal is None:
            return None
        self.placer = Placer(self.start_set.journal, self.report.attribution, self.warn)
        return self.placer

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
            if self.placer is not None:
                self.placer.place(self.spec, self.firmware)
        rejected = self.report.stats.rejected
        damaged = any(rejected[reason] for reason in DAMAGE)
        self.report.ingest = self.keeper.keep(
            self.start_set, counters=counters(self.report.stats), damaged=damaged
        )


def _concrete_ports(spec: MachineSpec) -> MachineSpec:
    """Free host ports in place of zeros."""
    forwards = tuple(
        dataclasses.replace(f, host=f.host or free_port(f)) for f in spec.network.forwards
    )
    return dataclasses.replace(spec, network=dataclasses.replace(spec.network, forwards=forwards))
