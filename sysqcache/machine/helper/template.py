# SPDX-License-Identifier: GPL-2.0-or-later
"""The helper's template: it was booted once, without disks, and goes on from there each time.

::

    helper/KEY/state   memory and devices, as `suspend` writes them for a template

in the cache directory. The key stands for all that a state depends on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import xxhash

from sysqcache.base import paths
from sysqcache.base.errors import MachineDied, SavedStateError
from sysqcache.base.files import TEMPORARY, locked, make_directory
from sysqcache.base.types import ArchName, CacheMode
from sysqcache.formats import ramfile
from sysqcache.machine.helper.channel import Channel
from sysqcache.machine.launch import argv
from sysqcache.machine.launch.argv import Incoming, Launch
from sysqcache.machine.launch.process import QemuProcess
from sysqcache.qmp import commands, migration
from sysqcache.qmp.client import QmpClient
from sysqcache.spec.arch import get_arch
from sysqcache.spec.catalog import ImagePaths
from sysqcache.spec.engines import Engine
from sysqcache.spec.spec import CachePolicy, MachineSpec, Network

MEMORY: Final = 256 << 20
BOOT_SECONDS: Final = 300.0
_QMP_SECONDS: Final = 10.0
_VERSION: Final = 1
_STATE: Final = "state"
_LOCK: Final = "lock"
_SANDBOX: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
# a panic ends the machine; a GPT of which only the spare copy is left counts
_CMDLINE: Final = "console=ttyS0 quiet panic=-1 gpt"


@dataclasses.dataclass(frozen=True, slots=True)
class Helper:
    """What a helper is started from, and with which engine."""

    image: ImagePaths
    engine: Engine

    def spec(self, *devices: str) -> MachineSpec:
        """The machine; ``devices``: further arguments of QEMU."""
        arch = get_arch(ArchName.X86_64)
        return MachineSpec(
            name="helper",
            arch=arch.name,
            machine=arch.default_machine,
            cpu=arch.default_cpu,
            memory=MEMORY,
            vcpus=1,
            image_id=self.image.name,
            source=Path(),
            kernel=self.image.kernel,
            initrd=self.image.initrd,
            cmdline=_CMDLINE,
            network=Network(enabled=False),
            cache=CachePolicy(CacheMode.OFF),
            reboot=False,
            qemu_args=("-sandbox", _SANDBOX, *devices),
        )

    @property
    def key(self) -> str:
        """What a state depends on, as the name of a directory."""
        files = [path.stat() for path in (self.image.kernel, self.image.initrd) if path]
        whole = [_VERSION, self.engine.key, self.engine.meta.get("built"), MEMORY]
        parts = [[info.st_size, info.st_mtime_ns, info.st_ino] for info in files]
        return xxhash.xxh3_128_hexdigest(json.dumps([*whole, *parts]))

    @contextlib.contextmanager
    def running(self, incoming: Incoming | None, *devices: str) -> Iterator[Running]:
        """A QEMU that answers, in a directory of its own; the end of the scope is its end.

        Raises :class:`MachineError`, OSError.
        """
        with tempfile.TemporaryDirectory(prefix="sysqcache-helper-") as name:
            folder = Path(name)
            binary, firmware = self.engine.binary, self.engine.firmware_dir
            launch = Launch(self.spec(*devices), binary, firmware, folder, incoming=incoming)
            with QemuProcess(argv.build(launch), folder) as process:
                try:
                    socket = folder / paths.INSTANCE_QMP
                    qmp = QmpClient.connect(socket, process=process, timeout=_QMP_SECONDS)
                except MachineDied:
                    raise process.launch_error() from None
                with qmp:
                    yield Running(process, qmp, folder)
                    # it has nothing to put in order
                    process.kill()


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """A helper's QEMU."""

    process: QemuProcess
    qmp: QmpClient
    folder: Path

    def channel(self) -> Channel:
        """A connection to its reader. Raises HelperError."""
        waited = self.process.identity.waited_seconds
        return Channel.connect(self.folder / paths.INSTANCE_AGENT, waited)


def template(helper: Helper) -> Path:
    """The state file of a helper, which is made when there is none.

    Raises :class:`MachineError`, HelperError, OSError.
    """
    state = paths.helper_dir() / helper.key / _STATE
    if state.is_file():
        return state
    make_directory(state.parent.parent)
    with locked(state.parent.parent / _LOCK, None):
        if not state.is_file():
            _make(helper, state)
    return state


def _make(helper: Helper, state: Path) -> None:
    """Boot a helper and save it; states of other engines and images go."""
    folder = state.parent.parent
    for old in folder.iterdir():
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
    new = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder))
    try:
        with helper.running(None) as machine:
            channel = machine.channel()
            try:
                channel.ask(b"P", seconds=BOOT_SECONDS)
            finally:
                channel.close()
            commands.stop(machine.qmp)
            migration.save_to_file(machine.qmp, new / _STATE)
        (new / _STATE).chmod(0o400)
        new.rename(state.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def incoming(state: Path, *, mapped: bool) -> Incoming:
    """How a state comes in. Raises :class:`SavedStateError`, OSError.

    :param mapped: the engine can map its memory instead of reading it.
    """
    info = state.stat()
    if info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise SavedStateError(f"{state} could have been written by others")
    if not mapped:
        return Incoming(True)
    block = ramfile.largest_block(state)
    return Incoming(True, state, block.offset, block.name)


@contextlib.contextmanager
def resumed(helper: Helper, *devices: str) -> Iterator[tuple[Running, Channel]]:
    """A helper that goes on from its template, with further devices.

    Raises :class:`MachineError`, HelperError, OSError.
    """
    state = template(helper)
    how = incoming(state, mapped=not helper.engine.plain)
    with helper.running(how, *devices) as machine:
        migration.load_from_file(machine.qmp, state)
        commands.cont(machine.qmp)
        channel = machine.channel()
        try:
            yield machine, channel
        finally:
            channel.close()
