# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a state that was just saved can be loaded: tried in a second QEMU.

The machine that was saved still waits, and has given its disks up as a migrated one does. The
second QEMU is started as a resume would start it, loads the state and is killed before it
would take the disks (``late-block-activate``): nothing is written.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sysqcache.base import paths
from sysqcache.base.errors import LaunchError, MachineDied, MachineError
from sysqcache.machine.launch import argv
from sysqcache.machine.launch.argv import Launch
from sysqcache.machine.launch.process import QemuProcess, log_tail
from sysqcache.qmp import migration
from sysqcache.qmp.client import QmpClient
from sysqcache.saved.origin import SavedOrigin
from sysqcache.saved.record import SavedMachine
from sysqcache.saved.slots import STATE
from sysqcache.spec.spec import Disk

if TYPE_CHECKING:
    from sysqcache.spec.engines import Engine

_FOLDER: Final = "proof"
_CONNECT_TIMEOUT: Final = 60.0


def problem(record: SavedMachine, directory: Path, engine: Engine) -> str:
    """Why the state in ``directory`` can't be loaded, "" when it was.

    Takes the time of a resume. Raises OSError.
    """
    folder = directory / _FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    process = QemuProcess(_command(record, directory, engine, folder), folder)
    try:
        with process:
            _load(process, folder, directory / STATE)
    except MachineError as error:
        said = log_tail(folder / paths.INSTANCE_QEMU_LOG, 1)
        return said.partition(": ")[2] or said or error.message
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return ""


def _load(process: QemuProcess, folder: Path, state: Path) -> None:
    try:
        qmp = QmpClient.connect(
            folder / paths.INSTANCE_QMP, process=process, timeout=_CONNECT_TIMEOUT
        )
    except MachineDied:
        error = process.launch_error()
        raise LaunchError(error.message, detail=error.detail) from None
    with qmp:
        migration.keep_disks_off(qmp)
        migration.load_from_file(qmp, state)
        # it has nothing to put in order
        process.kill()


def _command(record: SavedMachine, directory: Path, engine: Engine, folder: Path) -> list[str]:
    """A resume's command line, without ports and with the disks themselves."""
    spec = record.spec
    spec = dataclasses.replace(
        spec, serial_log=None, network=dataclasses.replace(spec.network, forwards=())
    )
    launch = Launch(
        spec,
        engine.binary,
        engine.firmware_dir,
        folder,
        tuple(
            _disk(saved.own, disk, directory)
            for saved, disk in zip(record.disks, spec.disks, strict=True)
        ),
        incoming=SavedOrigin(record, directory).incoming,
    )
    return [*argv.build(launch), "-S"]


def _disk(own: str, disk: Disk, directory: Path) -> Disk:
    return argv.overlay_disk(disk, directory / own) if own else disk
