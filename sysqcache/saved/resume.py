# SPDX-License-Identifier: GPL-2.0-or-later
"""Resumes saved machines: one that goes on, or many copies of a template at once."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sysqcache.attribution.placer import LOOKING
from sysqcache.base import interrupts, system
from sysqcache.base.errors import (
    EngineMissing,
    LaunchError,
    MachineBusy,
    MachineError,
    QmpError,
    SavedStateError,
    SysqcacheError,
    UsageError,
)
from sysqcache.base.interrupts import Interrupted
from sysqcache.base.types import CacheMode, GuestAccess, MachineState, Probe
from sysqcache.formats import ramfile
from sysqcache.machine import progress
from sysqcache.machine.instances import Instance
from sysqcache.machine.launch.process import CHANGE_CPU
from sysqcache.machine.life import BootOptions
from sysqcache.machine.progress import Listener, PhaseBegan
from sysqcache.machine.report import BootReport
from sysqcache.machine.running import Machine, end_by_signals, settle
from sysqcache.machine.start import start_saved
from sysqcache.saved import disks, killed, slots
from sysqcache.saved.copies import Copy, CopyOrigin, copy_spec
from sysqcache.saved.origin import SavedOrigin
from sysqcache.saved.record import FileIdentity, Method, SavedMachine
from sysqcache.spec.spec import MachineSpec, Ready

if TYPE_CHECKING:
    from sysqcache.spec.engines import Engine

MAX_COPIES: Final = 256
_AWAKE_TIMEOUT: Final = 60.0
_GIVING_UP: Final = 0.2
_WAKING: Final = ("preparing", "looking into the image", "resuming", "waking up")


@dataclasses.dataclass(frozen=True, slots=True)
class Resumable:
    """A saved machine that may be resumed."""

    record: SavedMachine
    directory: Path
    engine: Engine


def check(name: str) -> Resumable:
    """Look whether the saved machine ``name`` can be resumed.

    Disks, engine and state file must be those of the moment it was saved; what it boots from,
    which it has at a reset, must be there. Raises
    :class:`SavedStateError` that says what differs and the way out.
    """
    record, directory = slots.current(name)
    for file in (record.spec.kernel, record.spec.initrd, record.spec.firmware):
        # those of the engine have no directory
        if file is not None and file.is_absolute() and not file.exists():
            raise disks.lost(name, file)
    engine = _engine(record)
    for disk in record.disks:
        disks.check(name, disk, directory, engine.qemu_img, tag=record.tag)
    disks.require_unchanged(name, record.held)
    if record.method is not Method.INTERNAL:
        _check_state(record, directory / slots.STATE)
    return Resumable(record, directory, engine)


def _engine(record: SavedMachine) -> Engine:
    """The very engine that saved the machine."""
    from sysqcache.spec.engines import find_engine, list_engines

    arch = str(record.spec.arch)
    engines = list_engines(arch)
    with contextlib.suppress(EngineMissing):
        engines.insert(0, find_engine(arch))
    for engine in engines:
        if engine.key == record.engine and engine.build_id == record.build_id:
            return engine
    raise SavedStateError(
        f"the saved machine {record.name} can't be resumed: the engine {record.engine} that "
        "saved it is gone",
        hint="a state fits the engine that made it; sysqcache boot starts the machine afresh, "
        f"sysqcache snapshot delete {record.name} forgets it",
    )


def _check_state(record: SavedMachine, file: Path) -> None:
    """A file that nobody touched is believed but for its devices; any other is read in full."""
    try:
        now = FileIdentity.of(file)
        sums, saved = record.checksums, record.state
        if sums is None or saved is None:
            raise SavedStateError(f"{record.name} has no checksums of its state")
        if now.size != saved.size:
            good = False
        elif now == saved:
            good = ramfile.state_checksum(file) == sums.state
        else:
            good = ramfile.checksums(file) == sums
    except FileNotFoundError:
        good, why = False, "it is missing"
    except OSError as error:
        raise SavedStateError(
            f"the saved machine {record.name} can't be resumed now: its state {file} can't be "
            f"read ({error.strerror})",
            hint=system.hint(error.errno),
        ) from error
    except SavedStateError as error:
        good, why = False, str(error)
    else:
        why = "it is not what was saved"
    if not good:
        raise SavedStateError(
            f"the saved machine {record.name} can't be resumed: its state {file} is damaged "
            f"({why})",
            hint=disks.afresh(record.name),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class ResumeOptions:
    """How to resume. ``cache`` None: as the machine was saved with."""

    tasks: tuple[str, ...] = ()
    detach: bool = False
    cache: CacheMode | None = None
    task_timeout: float = 3600.0


def resume(
    name: str, options: ResumeOptions = ResumeOptions(), listener: Listener = progress.ignore
) -> BootReport:
    """Let the saved machine ``name`` go on; it stays saved.

    Raises :class:`SavedStateError`, :class:`MachineBusy` and what ``machine.start.boot`` raises.
    """
    checked = _checked_idle(name)
    origin = SavedOrigin(checked.record, checked.directory)
    spec = _spec(checked.record, options)
    with _model_may_be_gone(checked.record):
        return start_saved(spec, origin, checked.engine, _boot_options(options), listener)


@contextlib.contextmanager
def _model_may_be_gone(record: SavedMachine) -> Iterator[None]:
    """Who resumes a machine can't change its CPU."""
    try:
        yield
    except LaunchError as error:
        if error.hint != CHANGE_CPU:
            raise
        raise SavedStateError(
            f"the saved machine {record.name} can't be resumed: the engine has no CPU model "
            f"{record.spec.cpu}",
            hint=disks.afresh(record.name),
            detail=error.detail,
        ) from error


def resume_copies(
    name: str,
    count: int,
    options: ResumeOptions = ResumeOptions(),
    listener: Callable[[str], Listener] = lambda _: progress.ignore,
) -> list[BootReport]:
    """Start ``count`` machines NAME-1, NAME-2, ... from one template, all at once.

    Each has its own overlays, host ports, MAC address and host name; memory and packs are
    shared until they are written to. Raises as :func:`resume`, when all have ended: either
    every copy goes on or none. A ``KeyboardInterrupt`` ends them all.
    """
    if not 1 <= count <= MAX_COPIES:
        raise UsageError(f"--copies takes 1 to {MAX_COPIES}; found {count}")
    checked = check(name)
    _require_copies(checked.record)
    copies = [Copy.number(checked.record, n + 1) for n in range(count)]
    for copy in copies:
        if Instance(copy.name).is_held():
            raise MachineBusy(
                f"the machine {copy.name} is running already", hint=f"sysqcache stop {copy.name}"
            )
    gate = _Gate(count)
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        waiting: list[Future[BootReport]] = []
        try:
            for copy in copies:
                told = listener(copy.name)
                waiting.append(pool.submit(_resume_copy, checked, copy, options, gate, told))
            concurrent.futures.wait(waiting)
            interrupts.too_late()
        except KeyboardInterrupt:
            _give_up(copies, waiting, gate)
    if gate.given_up:
        # one may have been submitted, and not be in the list
        _end_copies(copies)
        raise Interrupted(f"interrupted: none of the {count} copies runs")
    failed = [
        (copy, error)
        for copy, one in zip(copies, waiting, strict=True)
        if (error := one.exception()) is not None and not isinstance(error, _NotBegun)
    ]
    if failed:
        _end_copies(copies)
        raise _none_runs(*failed[0], count)
    return [future.result() for future in waiting]


def _require_copies(record: SavedMachine) -> None:
    name = record.name
    if record.method is not Method.TEMPLATE:
        raise SavedStateError(
            f"{name} is saved by the method {record.method}: one machine can go on, no copies",
            hint=f"resume it, then sysqcache suspend {name} --method template",
        )
    if record.alone:
        raise SavedStateError(
            f"{name} can't have copies: each would take what its qemu_args ask for: "
            f"{', '.join(record.alone)}",
            hint=f"sysqcache resume {name} lets one go on",
        )


def _give_up(copies: Sequence[Copy], waiting: Sequence[Future[BootReport]], gate: _Gate) -> None:
    """End all copies, however far they are; what they recorded is kept."""
    interrupts.take()
    gate.given_up = True
    gate.failed.set()
    while concurrent.futures.wait(waiting, _GIVING_UP).not_done:
        for copy in copies:
            with contextlib.suppress(MachineError):
                end_by_signals(copy.name)
    _end_copies(copies)


def _end_copies(copies: Sequence[Copy]) -> None:
    """End those that run: none was asked to run without the others."""
    for copy in copies:
        instance = Instance(copy.name)
        with contextlib.suppress(MachineError):
            try:
                with Machine.attach(copy.name, quick=True) as machine:
                    machine.quit()
            except QmpError:  # it is too busy to answer
                end_by_signals(copy.name)
            settle(instance)
            instance.update(state=MachineState.STOPPED)


def _none_runs(copy: Copy, error: BaseException, count: int) -> BaseException:
    if isinstance(error, SysqcacheError):
        error.message = f"{copy.name}: {error.message}; none of the {count} copies runs"
    return error


class _NotBegun(Exception):
    """A copy that was not started, as another had failed."""


class _Gate:
    """Lets as many of ``copies`` machines wake up at a time as there are processors.

    All at once would share the processors and the caches, and every one would be late; so
    would the last ones if the first were looked into before all are awake.
    """

    def __init__(self, copies: int) -> None:
        self._places = threading.Semaphore(max(2, len(os.sched_getaffinity(0))))
        self._lock = threading.Lock()
        self._asleep = copies
        self._all_awake = threading.Event()
        self.failed = threading.Event()
        self.given_up = False

    @contextlib.contextmanager
    def place(self, listener: Listener) -> Iterator[Listener]:
        """A place until the machine has waked up, or failed to; the listener to tell that."""
        self._places.acquire()
        held = contextlib.ExitStack()
        held.callback(self._leave)

        def passing(event: progress.Event) -> None:
            if isinstance(event, PhaseBegan) and event.name not in _WAKING:
                held.close()
                if event.name == LOOKING and not self._all_awake.is_set():
                    listener(PhaseBegan("waiting for the other copies"))
                    self._all_awake.wait()
            listener(event)

        with held:
            yield passing

    def _leave(self) -> None:
        self._places.release()
        with self._lock:
            self._asleep -= 1
            if self._asleep == 0:
                self._all_awake.set()


def _resume_copy(
    checked: Resumable, copy: Copy, options: ResumeOptions, gate: _Gate, listener: Listener
) -> BootReport:
    spec = copy_spec(_spec(checked.record, options), copy)
    origin = CopyOrigin(checked.record, checked.directory, copy)
    with gate.place(listener) as passing, _model_may_be_gone(checked.record):
        if gate.failed.is_set():
            raise _NotBegun
        try:
            return start_saved(spec, origin, checked.engine, _boot_options(options), passing)
        except BaseException:
            gate.failed.set()
            raise


def _checked_idle(name: str) -> Resumable:
    killed.end_idle(name)
    if Instance(name).is_held():
        raise MachineBusy(f"the machine {name} is running already", hint=f"sysqcache stop {name}")
    return check(name)


def _boot_options(options: ResumeOptions) -> BootOptions:
    return BootOptions(
        tasks=options.tasks, detach=options.detach, task_timeout=options.task_timeout
    )


def _spec(record: SavedMachine, options: ResumeOptions) -> MachineSpec:
    """What was saved, ready as soon as the guest answers."""
    spec = record.spec
    if options.cache is not None:
        spec = spec.with_cache(options.cache)
    answers = spec.agent is GuestAccess.GUEST_AGENT
    ready = Ready(
        Probe.GUEST_AGENT if answers else Probe.NONE,
        timeout=_AWAKE_TIMEOUT,
        hint="the guest runs, but its agent does not answer; was it there when it was saved?",
    )
    return dataclasses.replace(spec, ready=ready)
