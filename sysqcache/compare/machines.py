# SPDX-License-Identifier: GPL-2.0-or-later
"""One start of the compared machine, by any way, measured; and its suspending."""

from __future__ import annotations

import dataclasses
from typing import Final

from sysqcache.base.errors import MachineError
from sysqcache.base.paths import INSTANCE_OVERLAYS
from sysqcache.base.types import CacheMode, DiskMode
from sysqcache.compare import nonce
from sysqcache.compare.figures import Sample
from sysqcache.compare.observe import Observer
from sysqcache.compare.ways import Way
from sysqcache.machine import progress
from sysqcache.machine.instances import Instance
from sysqcache.machine.launch.overlay import remove_overlays
from sysqcache.machine.life import BootOptions
from sysqcache.machine.progress import Listener
from sysqcache.machine.report import BootReport, hit_rate
from sysqcache.machine.running import end_by_signals
from sysqcache.machine.start import boot
from sysqcache.saved import resume as resuming
from sysqcache.saved import suspend as suspending
from sysqcache.saved.record import Method
from sysqcache.saved.resume import ResumeOptions
from sysqcache.saved.suspend import Suspended
from sysqcache.spec.spec import MachineSpec

ANSWER: Final = "true"
"""The command that a guest has to answer to count as started."""
MEASURED: Final = 3
"""Commands that are measured: the answer and two runs of the task."""
_NAME_MAX: Final = 50


@dataclasses.dataclass(frozen=True, slots=True)
class Machines:
    """Starts the machine of one comparison.

    :param spec: as :func:`private` made it.
    :param timeout: seconds for one command in the guest.
    """

    spec: MachineSpec
    task: str
    timeout: float

    @property
    def tasks(self) -> tuple[str, ...]:
        """What runs in the guest of every run, in this order."""
        return (ANSWER, self.task, self.task, nonce.READ)

    def fill(self, listener: Listener) -> BootReport:
        """Boot once with an empty store and keep all blocks. Raises :class:`MachineError`."""
        observer = Observer(MEASURED, listener)
        options = BootOptions(tasks=self.tasks, task_timeout=self.timeout)
        report = boot(self.spec.with_cache(CacheMode.ON), options, observer)
        _finish(report, observer)
        return report

    def suspend(
        self, method: Method, value: str, cache: CacheMode, listener: Listener
    ) -> tuple[Suspended, list[str]]:
        """Boot, put ``value`` into the guest's memory and save it; with what was warned of.

        Raises :class:`MachineError`; nothing runs then.
        """
        warnings: list[str] = []
        spec = dataclasses.replace(self.spec, name=self.name(method)).with_cache(cache)
        observer = Observer(0, listener)
        options = BootOptions(
            tasks=(nonce.store_command(value),), detach=True, task_timeout=self.timeout
        )
        try:
            report = boot(spec, options, observer)
            _finish(report, observer)
            saved = suspending.suspend(
                spec.name,
                str(method),
                warnings.append,
                lambda phase: listener(progress.PhaseBegan(phase)),
            )
        except BaseException:
            _end(spec.name)
            raise
        return saved, [*report.warnings, *warnings]

    def learn(self, method: Method, listener: Listener) -> BootReport:
        """Resume once and keep all blocks that are new. Raises :class:`MachineError`."""
        observer = Observer(MEASURED, listener)
        options = ResumeOptions(self.tasks, cache=CacheMode.ON, task_timeout=self.timeout)
        report = resuming.resume(self.name(method), options, observer)
        _finish(report, observer)
        return report

    def name(self, method: Method) -> str:
        """Name of the machine that is saved by a method: one name has one saved state."""
        return f"{self.spec.name[:_NAME_MAX]}-{method}"

    def start(
        self, way: Way, number: int, cached: CacheMode, listener: Listener
    ) -> tuple[Sample, str, list[str]]:
        """One run: what was measured, what the guest's memory held, what was warned of.

        :param number: of the round.
        :param cached: mode of the ways that use the cache.

        Raises :class:`MachineError`; nothing runs then.
        """
        mode = cached if way.cached else CacheMode.OFF
        observer = Observer(MEASURED, listener)
        report = self._start(way, mode, observer)
        _finish(report, observer)
        if way.cached and not report.stats.adopted:
            raise MachineError(f"{way}: no block was adopted", detail="\n".join(report.warnings))
        _, first, second, read = observer.tasks
        sample = Sample(
            way=way,
            round=number,
            ready_s=observer.answered_after(report.times.launch_s),
            command_s=observer.first_end - observer.called_at,
            first_task_s=first.wall_s,
            second_task_s=second.wall_s,
            host_cpu_s=observer.host_cpu_s,
            peak_rss_bytes=observer.peak_rss_bytes,
            hit_rate=hit_rate(report.stats),
            launch_s=report.times.launch_s,
            probe_s=(report.times.ready_s or 0.0) - report.times.launch_s,
        )
        return sample, read.stdout, report.warnings

    def _start(self, way: Way, mode: CacheMode, observer: Observer) -> BootReport:
        if way.method is None:
            options = BootOptions(tasks=self.tasks, task_timeout=self.timeout)
            return boot(self.spec.with_cache(mode), options, observer)
        resume = ResumeOptions(tasks=self.tasks, cache=mode, task_timeout=self.timeout)
        return resuming.resume(self.name(way.method), resume, observer)


def private(spec: MachineSpec) -> MachineSpec:
    """The machine as it is compared: nothing of the user's is written to.

    Persistent disks get overlays, forwarded ports free host ports, the serial log goes
    into the machine's own directory.
    """
    disks = tuple(
        dataclasses.replace(disk, mode=DiskMode.EPHEMERAL)
        if disk.mode is DiskMode.PERSISTENT
        else disk
        for disk in spec.disks
    )
    forwards = tuple(dataclasses.replace(one, host=0) for one in spec.network.forwards)
    network = dataclasses.replace(spec.network, forwards=forwards)
    return dataclasses.replace(spec, disks=disks, network=network, serial_log=None)


def _finish(report: BootReport, observer: Observer) -> None:
    """Nobody wanted it to end early, and all commands succeeded."""
    if report.interrupted:
        raise KeyboardInterrupt
    observer.require_success()


def _end(name: str) -> None:
    """Leave nothing of a machine that could not be saved."""
    instance = Instance(name)
    if instance.is_held():
        end_by_signals(name)
    remove_overlays(instance.file(INSTANCE_OVERLAYS))
