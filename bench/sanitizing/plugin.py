# SPDX-License-Identifier: GPL-2.0-or-later
"""A plugin for pytest, ``-p bench.sanitizing.plugin``: for engines that a sanitizer makes slow.

Waits that would end with an error are longer. What QEMU has said is kept in the folder that
SYSQCACHE_SANITIZER_LOGS names: beside ASan, UBSan has no log of its own.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Final

from sysqcache.machine.guest.result import TaskResult
from sysqcache.machine.guest.serialshell import SerialShell
from sysqcache.machine.launch.process import QemuProcess
from sysqcache.qmp.client import DEFAULT_TIMEOUT, QmpClient

ENV_LOGS: Final = "SYSQCACHE_SANITIZER_LOGS"
FACTOR: Final = 15

_execute = QmpClient.execute
_run = SerialShell.run
_exit = QemuProcess.__exit__


def _patient_execute(self: QmpClient, *args: Any, timeout: float = DEFAULT_TIMEOUT) -> Any:
    return _execute(self, *args, timeout=timeout * FACTOR)


def _patient_run(self: SerialShell, command: str, timeout: float) -> TaskResult:
    return _run(self, command, timeout * FACTOR)


def _exit_and_keep(self: QemuProcess, *error: Any) -> None:
    _exit(self, *error)
    if self.log.exists():
        shutil.copy(self.log, Path(os.environ[ENV_LOGS]) / f"qemu.{self.pid}")


def _longer_by_default(wait: Any) -> None:
    timeout, *others = wait.__defaults__
    wait.__defaults__ = (timeout * FACTOR, *others)


def pytest_collection_finish() -> None:
    """The tests' own helpers are there by now."""
    import enginehelp
    import machinehelp

    _longer_by_default(enginehelp.Guest.wait_ready)
    _longer_by_default(machinehelp.eventually)
    # the tests get at these by way of the classes
    for owner, name, function in (
        (QmpClient, "execute", _patient_execute),
        (SerialShell, "run", _patient_run),
        (QemuProcess, "__exit__", _exit_and_keep),
    ):
        setattr(owner, name, function)
