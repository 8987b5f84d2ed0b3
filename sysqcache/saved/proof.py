# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a state that was just saved can be loaded: tried in a second QEMU.

The machine that was saved still waits, and has given its disks up as a migrated one does. The
second QEMU is started as a resume would start it, loads the state and is killed before it
would take the disks (``late-block-activate``): nothing is written. A snapshot inside of the disks
is loaded from overlays over their files: what going back to it writes goes there.

It is started while the guest still runs (:class:`Trial`), and maps the file that the guest's
memory is saved into rather than read it: what is left for a guest that stands still is the
load of the devices. Where that does not succeed, whatever the reason, :func:`problem` asks a
QEMU with a resume's very command line, whose word counts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sysqcache.base import paths
from sysqcache.base.errors import LaunchError, MachineDied, MachineError
from sysqcache.base.types import DiskMode
from sysqcache.formats import ramfile
from sysqcache.machine.launch import argv
from sysqcache.machine.launch.argv import Incoming, Launch
from sysqcache.machine.launch.process import QemuProcess, log_tail
from sysqcache.qmp import migration
from sysqcache.qmp.client import QmpClient
from sysqcache.saved import disks
from sysqcache.saved.origin import SavedOrigin
from sysqcache.saved.record import Method, SavedMachine
from sysqcache.saved.slots import STATE
from sysqcache.spec.spec import Disk, MachineSpec

if TYPE_CHECKING:
    from sysqcache.spec.engines import Engine

_FOLDER: Final = "proof"
_CONNECT_TIMEOUT: Final = 60.0


class Trial:
    """A second QEMU that waits for the state to be saved in ``slot``.

    :param incoming: how it takes the state; with memory in the file if that can be mapped.
    """

    def __init__(self, qmp: QmpClient, process: QemuProcess, slot: Path, incoming: Incoming):
        self._qmp, self._process, self._slot = qmp, process, slot
        self.incoming = incoming

    def loads(self, record: SavedMachine) -> bool:
        """Whether it loaded the state. False says nothing of a resume."""
        mapped = self.incoming.memory is not None
        if mapped and (self.incoming.memory_id, self.incoming.memory_offset) != (
            record.ram[0],
            record.ram[2],
        ):
            return False
        try:
            _load(self._qmp, self._process, self._slot / STATE)
        except MachineError:
            return False
        return True


@contextlib.contextmanager
def trial(
    spec: MachineSpec, slot: Path, engine: Engine, overlays: Path, memory: str
) -> Iterator[Trial | None]:
    """A :class:`Trial` for the time of saving; None when none can be started.

    :param overlays: of the machine that runs.
    :param memory: the name of its memory if that is its machine type's own of vm.yaml's size,
        which may be mapped then; "" to have it read.
    """
    with contextlib.ExitStack() as stack:
        try:
            incoming = _mapped(spec, slot, memory) if memory else Incoming(True)
            folder = stack.enter_context(_folder(slot))
            own = [_own(overlays / disks.own_name(i), disk) for i, disk in enumerate(spec.disks)]
            command = _command(spec, engine, folder, own, incoming)
            process = stack.enter_context(QemuProcess(command, folder))
            found = Trial(stack.enter_context(_connected(process)), process, slot, incoming)
        except (MachineError, OSError):
            stack.close()
            found = None
        yield found


def _mapped(spec: MachineSpec, slot: Path, memory: str) -> Incoming:
    """Memory where QEMU will write it: the file's pages are those of this moment's inode."""
    state, offset = slot / STATE, ramfile.first_offset(spec.memory)
    state.touch(0o600)
    os.truncate(state, offset + spec.memory)
    return Incoming(True, state, offset, memory)


def problem(record: SavedMachine, directory: Path, engine: Engine) -> str:
    """Why the state in ``directory`` can't be loaded, "" when it was.

    Takes the time of a resume. Raises OSError.
    """
    own = [
        argv.overlay_disk(disk, directory / saved.own) if saved.own else disk
        for saved, disk in zip(record.disks, record.spec.disks, strict=True)
    ]
    origin = SavedOrigin(record, directory)
    with _folder(directory) as folder:
        try:
            command = _command(record.spec, engine, folder, own, origin.incoming)
            if record.method is Method.INTERNAL:
                command = _covered(command, own, folder, engine.qemu_img)
            process = QemuProcess(command, folder)
            with process, _connected(process) as qmp:
                if record.method is Method.INTERNAL:
                    migration.snapshot_load(qmp, record.tag, origin.nodes())
                    process.kill()
                else:
                    _load(qmp, process, directory / STATE)
        except MachineError as error:
            said = log_tail(folder / paths.INSTANCE_QEMU_LOG, 1)
            return said.partition(": ")[2] or said or error.message
    return ""


@contextlib.contextmanager
def _folder(directory: Path) -> Iterator[Path]:
    folder = directory / _FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _connected(process: QemuProcess) -> Iterator[QmpClient]:
    socket = process.directory / paths.INSTANCE_QMP
    try:
        qmp = QmpClient.connect(socket, process=process, timeout=_CONNECT_TIMEOUT)
    except MachineDied:
        error = process.launch_error()
        raise LaunchError(error.message, detail=error.detail) from None
    with qmp:
        yield qmp


def _load(qmp: QmpClient, process: QemuProcess, state: Path) -> None:
    migration.keep_disks_off(qmp)
    migration.load_from_file(qmp, state)
    # it has nothing to put in order
    process.kill()


def _command(
    spec: MachineSpec, engine: Engine, folder: Path, own: Sequence[Disk], incoming: Incoming
) -> list[str]:
    """A resume's command line, without ports and with the disks themselves."""
    spec = dataclasses.replace(
        spec, serial_log=None, network=dataclasses.replace(spec.network, forwards=())
    )
    launch = Launch(spec, engine.binary, engine.firmware_dir, folder, tuple(own), incoming=incoming)
    return [*argv.build(launch), "-S"]


def _covered(command: list[str], own: Sequence[Disk], folder: Path, qemu_img: Path) -> list[str]:
    """A command line of which the disks, which go back to a snapshot, are not written to."""
    written = [disk for disk in own if disk.mode is not DiskMode.READ_ONLY]
    for number, disk in enumerate(written):
        options = disks.cover(disk, folder / disks.own_name(number), qemu_img)
        command = [word.replace(argv.file_options("file", disk), options) for word in command]
    return command


def _own(overlay: Path, disk: Disk) -> Disk:
    return argv.overlay_disk(disk, overlay) if disk.mode is DiskMode.EPHEMERAL else disk
