# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's QEMU with nothing but a QMP socket, and what a test adds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sysqcache.base import paths
from sysqcache.machine.launch.process import QemuProcess
from sysqcache.qmp.client import QmpClient
from sysqcache.spec.engines import Engine


@contextlib.contextmanager
def qemu(engine: Engine, directory: Path, *more: str) -> Iterator[QmpClient]:
    """QEMU without a machine, unless ``more`` names one."""
    machine = () if "-machine" in more else ("-machine", "none")
    argv = [
        str(engine.binary),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *machine,
        *("-accel", "tcg"),
        *("-chardev", f"socket,id=q,path={paths.INSTANCE_QMP},server=on,wait=off"),
        *("-mon", "chardev=q,mode=control"),
        *more,
    ]
    with (
        QemuProcess(argv, directory) as process,
        QmpClient.connect(directory / paths.INSTANCE_QMP, process=process) as client,
    ):
        yield client


def info(client: QmpClient) -> dict[str, Any]:
    answer: dict[str, Any] = client.execute("x-query-tb-cache")
    return answer
