# SPDX-License-Identifier: GPL-2.0-or-later
"""Templates for runs: booted, brought to rest, saved with what waits for a command, and tried."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.base.errors import GuestCommandError, NotReady, SysqcacheError
from sysqcache.base.files import locked, make_directory
from sysqcache.base.sockets import connect_unix
from sysqcache.base.types import CacheMode, DiskFormat, DiskMode, GuestAccess
from sysqcache.machine import progress
from sysqcache.machine.cache import Keeper
from sysqcache.machine.guest.agent import GuestAgent
from sysqcache.machine.instances import Instance
from sysqcache.machine.launch import argv as qemu_argv
from sysqcache.machine.launch.argv import Launch, TbCache
from sysqcache.machine.launch.overlay import create_overlay
from sysqcache.machine.life import BootOptions
from sysqcache.machine.progress import Listener, PhaseBegan
from sysqcache.machine.running import Machine, end_by_signals, settle
from sysqcache.machine.start import boot
from sysqcache.run import guestside, keep, plan, throwaway
from sysqcache.run.plan import Plan
from sysqcache.saved import idle, resume, slots
from sysqcache.saved.origin import SavedOrigin
from sysqcache.saved.record import Method, SavedMachine
from sysqcache.saved.suspend import suspend
from sysqcache.spec.engines import Engine, find_engine
from sysqcache.spec.spec import Disk, MachineSpec
from sysqcache.spec.specjson import to_json

Warn = Callable[[str], None]

_END_MARK: Final = "run-end"
"""A file of each template: what ends the streams, or nothing for one without."""

_REST_S: Final = 10.0
_WAITS_S: Final = 20.0
_AGENT_S: Final = 30.0
_EMPTY: Final = "empty-"
_HERE: Final = Path()
"""The machine's own directory, whatever it will be."""


def key_of(spec: MachineSpec, engine: Engine) -> str:
    """What a template of a machine is made of: the machine, its files, the engine."""
    told = to_json(dataclasses.replace(spec, name="", source=Path(), serial_log=None))
    made = [told, plan.marks(_files(spec)), engine.key, engine.build_id, guestside.VERSION]
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


def _files(spec: MachineSpec) -> list[Path]:
    """Files that the machine is started from."""
    single = [spec.kernel, spec.initrd, spec.firmware]
    return [f for f in single if f is not None and f.is_absolute()] + [d.file for d in spec.disks]


def template_name(spec: MachineSpec, key: str) -> str:
    """What the saved machine is called that runs of a machine go on from."""
    return f"{spec.name[:40]}.run-{key[:10]}"


def fitting(spec: MachineSpec) -> MachineSpec:
    """A machine with what a command's streams need, and with nothing that two can't have."""
    channels = guestside.PORTS if spec.agent is GuestAccess.GUEST_AGENT else ()
    disks = tuple(
        dataclasses.replace(disk, mode=DiskMode.EPHEMERAL)
        if disk.mode is DiskMode.PERSISTENT
        else disk
        for disk in spec.disks
    )
    return dataclasses.replace(spec, channels=channels, serial_log=None, disks=disks)


def make(spec: MachineSpec, key: str, warn: Warn, listener: Listener = progress.ignore) -> str:
    """Make the template of a machine anew; its name.

    Raises what a boot and a suspend raise; no machine runs then, and none is saved.
    """
    name = template_name(spec, key)
    forwards = tuple(dataclasses.replace(one, host=0) for one in spec.network.forwards)
    network = dataclasses.replace(spec.network, forwards=forwards)
    booted = dataclasses.replace(spec, name=name, network=network)
    _end(name)  # of a run that was killed while it made this template
    remove(name)
    make_directory(Instance(name).directory)
    Instance(name).file(_END_MARK).write_text("")
    try:
        boot(booted, BootOptions(detach=True), listener)
        _save(name, spec, warn, listener)
    except BaseException:
        _end(name)
        remove(name)
        raise
    return name


def _save(name: str, spec: MachineSpec, warn: Warn, listener: Listener) -> None:
    with contextlib.ExitStack() as stack:
        token = stack.enter_context(_waiting(Instance(name), listener)) if spec.channels else ""
        Instance(name).file(_END_MARK).write_text(token)
        listener(PhaseBegan("coming to rest"))
        _rest(name)
        suspend(name, str(Method.TEMPLATE), warn, lambda phase: listener(PhaseBegan(phase)))
    for channel in spec.channels:
        Instance(name).file(qemu_argv.channel_socket(channel)).unlink(missing_ok=True)
    listener(PhaseBegan("keeping blocks"))
    Keeper(warn).sweep()


@contextlib.contextmanager
def _waiting(instance: Instance, listener: Listener) -> Iterator[str]:
    """A guest in which all waits for a command, and is connected with; the streams' token.

    It stays connected until it is saved: a guest is told when its host hangs up.
    Raises :class:`GuestCommandError`.
    """
    listener(PhaseBegan("preparing the guest"))
    token = guestside.new_token()
    with contextlib.ExitStack() as stack:
        ends = {
            one: stack.enter_context(
                connect_unix(instance.file(qemu_argv.channel_socket(one)), 1.0)
            )
            for one in guestside.PORTS
        }
        _start_supervisor(instance, token)
        _await_ready(ends[guestside.CONTROL])
        yield token


def _start_supervisor(instance: Instance, token: str) -> None:
    # not by a shell's &, whose processes ignore interrupts for ever
    with contextlib.closing(GuestAgent.connect(instance.file(paths.INSTANCE_AGENT))) as agent:
        if not agent.sync(_AGENT_S):
            raise GuestCommandError("the guest agent does not answer")
        script = guestside.supervisor(token)
        agent.execute("guest-exec", {"path": "/bin/sh", "arg": ["-c", script]})


def _await_ready(control: socket.socket) -> None:
    control.settimeout(_WAITS_S)
    said = b""
    try:
        while not said.endswith(guestside.READY):
            data = control.recv(4096)
            if not data:
                break
            said += data
    except TimeoutError:
        pass
    if not said.endswith(guestside.READY):
        raise NotReady(
            "the guest has no channel for a command's streams",
            hint="it needs the kernel's module virtio_console, and cat, mkfifo and setsid",
        )


def _rest(name: str) -> None:
    """Wait until the guest has nothing left to do, for some seconds at most."""
    instance = Instance(name)
    process = instance.watched(instance.require_running())
    deadline = time.monotonic() + _REST_S
    while not idle.wait_until_idle(process.cpu_seconds) and time.monotonic() < deadline:
        pass


def _end(name: str) -> None:
    """End a machine that is of no use any more, if it runs."""
    if not Instance(name).is_held():
        return
    with contextlib.suppress(SysqcacheError, OSError):
        try:
            with Machine.attach(name, quick=True) as machine:
                machine.quit()
        except SysqcacheError:
            end_by_signals(name)
    settle(Instance(name))


def remove(name: str) -> bool:
    """Delete a template, unless machines run from it; whether none is left."""
    instance = Instance(name)
    if not instance.directory.exists():
        return True
    with contextlib.suppress(SysqcacheError, OSError), instance.locked():
        if instance.is_saved():
            slots.forget(name)
        shutil.rmtree(instance.directory, ignore_errors=True)
        return True
    return False


def sweep() -> None:
    """Remove templates that no plan names any more and nobody runs from; never fails."""
    for file in paths.instances_dir().glob(f"*/{_END_MARK}"):
        name = file.parent.name
        # held: it is being made, and its plan is still to come
        with contextlib.suppress(OSError), locked(plan.lock_of(name)) as lock:
            if lock is not None and name not in plan.templates():
                _end(name)
                remove(name)


def is_usable(name: str) -> bool:
    """Whether a template is there and can be resumed."""
    try:
        resume.check(name)
    except SysqcacheError:
        return False
    return True


def planned(spec: MachineSpec, key: str, warn: Warn) -> Plan:
    """The plan for runs of a machine whose template is there.

    :param spec: as vm.yaml has it, which may differ from the template in host ports.
    Raises :class:`SavedStateError` when the template can't be resumed.
    """
    name = template_name(spec, key)
    found = resume.check(name)
    record, directory, engine = found.record, found.directory, found.engine
    mode = CacheMode.OFF if engine.plain else spec.cache.mode
    packs = Keeper(warn).prepare(spec.with_cache(CacheMode.READ_ONLY))
    packs.close()
    launch = _launch(spec.with_cache(mode), record, directory, engine)
    token = Instance(name).file(_END_MARK).read_text()
    return Plan(
        key=key,
        template=name,
        directory=str(directory),
        argv=tuple(_arguments(launch, directory / slots.STATE)),
        disks=_empty_overlays(record, directory, engine),
        boot_set=tuple(str(pack) for pack in packs.packs),
        packs=plan.marks([paths.store_dir() / paths.STORE_BOOT_SETS]),
        token=token,
        state=_state(spec, mode),
        watched=plan.marks(_watched(spec, record, directory, engine)),
        touched=_touched_option(launch),
    )


def _launch(spec: MachineSpec, record: SavedMachine, directory: Path, engine: Engine) -> Launch:
    origin = SavedOrigin(record, directory)
    forwards = tuple(
        dataclasses.replace(forward, host=throwaway.port_mark(index))
        for index, forward in enumerate(spec.network.forwards)
    )
    cache = TbCache(
        spec.cache.mode,
        Path(paths.INSTANCE_BOOT_SET),
        Path(keep.JOURNAL) if spec.cache.mode.records else None,
        spec.cache.journal_max,
        touched=origin.touched if engine.current else None,
        images=paths.images_dir() if engine.current else None,
    )
    disks = tuple(
        Disk(Path(paths.INSTANCE_OVERLAYS) / saved.own, DiskFormat.QCOW2, disk.mode)
        if saved.own
        else disk
        for saved, disk in zip(record.disks, record.spec.disks, strict=True)
    )
    spec = dataclasses.replace(spec, network=dataclasses.replace(spec.network, forwards=forwards))
    incoming = origin.incoming
    return Launch(spec, engine.binary, engine.firmware_dir, _HERE, disks, cache, incoming)


def _touched_option(launch: Launch) -> str:
    touched = launch.tb_cache.touched if launch.tb_cache is not None else None
    return f",touched={qemu_argv.escape(touched)}" if touched is not None else ""


def _arguments(launch: Launch, state: Path) -> list[str]:
    """A command line that loads the state by itself."""
    words = qemu_argv.build(launch)
    at = words.index("-incoming")
    words[at : at + 2] = [
        *("-global", "migration.mapped-ram=on", "-global", "migration.x-multifd=on"),
        *("-global", "migration.x-events=on"),
        *("-incoming", f"file:{state}"),
    ]
    return words


def _empty_overlays(record: SavedMachine, directory: Path, engine: Engine) -> dict[str, str]:
    """Empty overlays over the frozen disks, beside them, by the name of the disk."""
    made = {}
    for disk in record.disks:
        if disk.own:
            made[disk.own] = f"{_EMPTY}{disk.own}"
            file = directory / made[disk.own]
            if not file.exists():
                create_overlay(directory / disk.own, DiskFormat.QCOW2, file, engine.qemu_img)
    return made


def _state(spec: MachineSpec, mode: CacheMode) -> dict[str, object]:
    """Fields of a run's state file that are always the same."""
    return {
        "name": spec.name,
        "arch": str(spec.arch),
        "source": str(spec.source),
        "image_id": spec.image_id,
        "cache_mode": str(mode),
        "agent": str(spec.agent),
        "poweroff_timeout": spec.poweroff_timeout,
        "forwards": [dataclasses.asdict(forward) for forward in spec.network.forwards],
        "start": str(Method.TEMPLATE),
    }


def _watched(
    spec: MachineSpec, record: SavedMachine, directory: Path, engine: Engine
) -> list[Path]:
    """All files that a plan depends on."""
    chains = [Path(path) for disk in record.disks for path in disk.chain]
    own = [directory / disk.own for disk in record.disks if disk.own]
    state = [directory / slots.STATE, Instance(record.name).file(paths.INSTANCE_SAVED_CURRENT)]
    engines = [engine.binary, *([paths.engines_dir()] if paths.engines_dir().is_dir() else [])]
    return sorted({spec.source, *_files(spec), *chains, *own, *state, *engines})


def current_engine(spec: MachineSpec) -> Engine:
    """The engine that a template would be made with. Raises :class:`EngineMissing`."""
    return find_engine(str(spec.arch))
