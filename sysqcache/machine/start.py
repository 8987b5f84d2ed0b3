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
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from sysqcache.attribution.placer import Placer
from sysqcache.base import interrupts, paths
from sysqcache.base.counters import saw_damage
from sysqcache.base.errors import LaunchError, MachineDied, MachineError, SysqcacheError, brief
from sysqcache.base.interrupts import Interrupted
from sysqcache.base.types import CacheMode, MachineState, OnPoweroff
from sysqcache.machine import progress
from sysqcache.machine.cache import Keeper, StartSet
from sysqcache.machine.helper.scan import scan_image
from sysqcache.machine.instances import Instance, InstanceState
from sysqcache.machine.launch import argv as qemu_argv
from sysqcache.machine.launch.argv import Incoming, Launch, TbCache
from sysqcache.machine.launch.firmware import require_firmware
from sysqcache.machine.launch.overlay import prepare_disks
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
    with ``interrupted``; a second one kills QEMU. One that comes when a detached machine was
    let go of changes nothing: the report says ``detached``.
    """
    from sysqcache.spec.engines import find_engine

    return _Start(spec, options, listener, None, find_engine(str(spec.arch))).run()


def start_saved(
    spec: MachineSpec,
    origin: Origin,
    engine: Engine,
    options: BootOptions = _DEFAULTS,
    listener: Listener = progress.ignore,
) -> BootReport:
    """As :func:`boot`, for a machine that goes on where it was saved, on the engine it fits."""
    return _Start(spec, options, listener, origin, engine).run()


class _Start:
    """One start of a machine; what it makes goes from step to step, none of it is kept here."""

    def __init__(
        self,
        spec: MachineSpec,
        options: BootOptions,
        listener: Listener,
        origin: Origin | None,
        engine: Engine,
    ) -> None:
        self.origin, self.engine = origin, engine
        self.options, self.listener = options, listener
        self.original = spec
        self.instance = Instance(spec.name)
        start = origin.start if origin is not None else "boot"
        self.report = BootReport(spec.name, str(spec.arch), str(spec.cache.mode), start)
        self.keeper = Keeper(self.warn, progress=lambda phase: self.listener(PhaseBegan(phase)))

    def warn(self, text: str) -> None:
        """Note a problem that does not stop the machine."""
        self.report.warnings.append(text)
        self.listener(Warned(text))

    def run(self) -> BootReport:
        """See :func:`boot`."""
        if self.options.detach and self.options.until is not Until.READY:
            raise MachineError("a detached machine is left running when it is ready")
        spec = _concrete_ports(self.original)
        if self.options.until is Until.EXIT:
            # QEMU waits after the guest's end, so that the counters are complete
            spec = dataclasses.replace(spec, on_poweroff=OnPoweroff.HOLD)
        with (
            interrupts.until_told(),
            self.instance.locked() as lock,
            self._telling_interrupted(),
            contextlib.ExitStack() as afterwards,
        ):
            try:
                if self.engine.plain and spec.cache.mode is not CacheMode.OFF:
                    spec = self._cache_off(spec, "this engine was built without the cache")
                disks = self._prepare(spec)
                self._run_qemu(spec, disks, lock, afterwards)
            except BaseException as error:
                self._note_failure(error)
                if isinstance(error, SysqcacheError):
                    error.report = self.report
                raise
            finally:
                if not self.report.detached:
                    self.instance.tidy()
        return self.report

    @contextlib.contextmanager
    def _telling_interrupted(self) -> Iterator[None]:
        """An interrupt that nobody answered says what has become of the machine."""
        try:
            yield
        except KeyboardInterrupt as error:
            now = "is running" if self.report.detached else "does not run"
            raise Interrupted(f"interrupted: {self.instance.name} {now}") from error

    def _prepare(self, spec: MachineSpec) -> tuple[Disk, ...]:
        """Write down what starts, and make its disks."""
        state = InstanceState(
            spec.name,
            arch=str(spec.arch),
            source=str(spec.source),
            image_id=spec.image_id,
            controller=os.getpid(),
            started=time.time(),
            start=self.report.start,
            saved_from=str(self.origin.directory) if self.origin is not None else "",
        )
        self.instance.write(state)
        write_spec(self.instance.file(paths.INSTANCE_SPEC), self.original)
        if spec.cache.mode is not CacheMode.OFF:
            self.keeper.sweep()
        self.listener(PhaseBegan("preparing"))
        require_firmware(spec, self.engine.firmware_dir)
        overlays = self.instance.file(paths.INSTANCE_OVERLAYS)
        if self.origin is not None:
            return self.origin.prepare_disks(overlays, self.engine.qemu_img)
        return prepare_disks(spec.disks, overlays, self.engine.qemu_img)

    def _cache_off(self, spec: MachineSpec, why: str) -> MachineSpec:
        self.warn(f"running with the cache off: {why}")
        self.report.cache_mode = str(CacheMode.OFF)
        return spec.with_cache(CacheMode.OFF)

    def _run_qemu(
        self,
        spec: MachineSpec,
        disks: tuple[Disk, ...],
        lock: int,
        afterwards: contextlib.ExitStack,
    ) -> None:
        """Start QEMU, without the cache if the engine turns out not to know it."""
        try:
            self._attempt(spec, disks, lock, afterwards)
        except LaunchError as error:
            if spec.cache.mode is CacheMode.OFF or _UNKNOWN_OBJECT not in error.detail:
                raise
            spec = self._cache_off(spec, "this engine does not know it")
            self._attempt(spec, disks, lock, afterwards)

    def _attempt(
        self,
        spec: MachineSpec,
        disks: tuple[Disk, ...],
        lock: int,
        afterwards: contextlib.ExitStack,
    ) -> None:
        """Run QEMU on what the store has for it, which gets ``afterwards`` what was recorded."""
        if spec.cache.mode is CacheMode.OFF:
            start_set, placer = None, None
        else:
            start_set = self.keeper.prepare(spec, self.report.start)
            self.report.packs_left_out = start_set.packs_left_out
            placer = self._placer(start_set)
            afterwards.callback(self._keep, spec, start_set, placer)
        with self._start_qemu(spec, disks, start_set, lock) as process:
            self._connect(process, spec, start_set, placer)

    def _placer(self, start_set: StartSet) -> Placer | None:
        """Who finds out whose the recorded blocks are; nobody when nothing is recorded."""
        if start_set.files is None:
            return None
        return Placer(start_set.files, self.report.attribution, self.warn, scan=scan_image)

    def _start_qemu(
        self, spec: MachineSpec, disks: tuple[Disk, ...], start_set: StartSet | None, lock: int
    ) -> QemuProcess:
        launch = Launch(
            spec,
            self.engine.binary,
            self.engine.firmware_dir,
            self.instance.directory,
            disks,
            None if start_set is None else self._tb_cache(spec, start_set),
            None if self.origin is None else self.origin.incoming,
        )
        for name in (*paths.INSTANCE_SOCKETS, paths.INSTANCE_SERIAL_LOG):
            self.instance.file(name).unlink(missing_ok=True)
        return QemuProcess(
            qemu_argv.build(launch),
            self.instance.directory,
            keep_fds=[lock] if start_set is None else [lock, *start_set.fds],
            detached=self.options.detach,
        )

    def _tb_cache(self, spec: MachineSpec, start_set: StartSet) -> TbCache:
        boot_set = self.instance.file(paths.INSTANCE_BOOT_SET)
        boot_set.write_bytes(b"".join(os.fsencode(pack) + b"\n" for pack in start_set.packs))
        # another engine, a saved machine's for one, may not know these yet
        origin = self.origin if self.engine.current else None
        return TbCache(
            spec.cache.mode,
            boot_set,
            start_set.journal,
            spec.cache.journal_max,
            touched=origin.touched if origin is not None else None,
            small_pages=origin is not None and origin.many,
            images=paths.images_dir() if self.engine.current else None,
        )

    def _connect(
        self,
        process: QemuProcess,
        spec: MachineSpec,
        start_set: StartSet | None,
        placer: Placer | None,
    ) -> None:
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
            state = self._write_running(process, spec, start_set)
            machine = Machine(self.instance, state, process, qmp)
            if self.origin is not None:
                self.listener(PhaseBegan("resuming"))
                # connected as it was when it was saved, so that the guest sees no hang-up
                machine.agent.keep()
                self.origin.load(machine)
            Life(
                spec,
                self.options,
                machine,
                process,
                self.report,
                self.listener,
                placer,
                self.origin,
                lambda: self._prepare_keeping(spec, start_set, placer),
            ).live()
        if not self.report.detached:
            self.instance.update(state=self.instance.ended)

    def _write_running(
        self, process: QemuProcess, spec: MachineSpec, start_set: StartSet | None
    ) -> InstanceState:
        identity = process.identity
        return self.instance.update(
            state=MachineState.STARTING,
            pid=identity.pid,
            pid_start=identity.start,
            cache_mode=str(spec.cache.mode),
            run_id="" if start_set is None else start_set.run.run_id,
            journal="" if start_set is None else str(start_set.journal or ""),
            agent=str(spec.agent),
            serial_log=str(spec.serial_log or ""),
            poweroff_timeout=spec.poweroff_timeout,
            forwards=tuple(dataclasses.asdict(f) for f in spec.network.forwards),
            argv=tuple(process.argv),
            waits=self.origin is not None,
        )

    def _note_failure(self, error: BaseException) -> None:
        """Write down why it failed, and the machine's end unless QEMU was let go of."""
        ended = {} if self.report.detached else {"state": self.instance.ended}
        with contextlib.suppress(MachineError, OSError):
            self.instance.update(error=brief(error), **ended)

    def _prepare_keeping(
        self, spec: MachineSpec, start_set: StartSet | None, placer: Placer | None
    ) -> None:
        """For who keeps the journal of a machine that goes on: the engine may be gone then."""
        if placer is not None:
            placer.place(spec, self.engine.firmware_dir)
        if start_set is not None and start_set.files is not None:
            start_set.files.count(counters(self.report.stats))

    def _keep(self, spec: MachineSpec, start_set: StartSet, placer: Placer | None) -> None:
        """Give the journal to the store, unless QEMU goes on."""
        if self.report.detached:
            start_set.close()
            return
        if start_set.journal is not None and start_set.journal.exists():
            self.listener(PhaseBegan("keeping blocks"))
            if placer is not None:
                placer.place(spec, self.engine.firmware_dir)
        stats = self.report.stats
        self.report.ingest = self.keeper.keep(
            start_set, counters=counters(stats), damaged=saw_damage(stats.rejected)
        )


def _concrete_ports(spec: MachineSpec) -> MachineSpec:
    """Free host ports in place of zeros."""
    forwards = tuple(
        dataclasses.replace(f, host=f.host or free_port(f)) for f in spec.network.forwards
    )
    return dataclasses.replace(spec, network=dataclasses.replace(spec.network, forwards=forwards))
