# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine that goes on when its saving is cancelled, at whatever moment."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sysqcache.base import paths
from sysqcache.machine.launch.process import QemuProcess
from sysqcache.qmp import migration
from sysqcache.qmp.client import QmpClient
from sysqcache.spec.engines import Engine

pytestmark = pytest.mark.qemu

CAPABILITIES = [{"capability": name, "state": True} for name in ("mapped-ram", "multifd")]


def test_saving_is_cancelled_again_and_again(x86_engine: Engine, tmp_path: Path) -> None:
    """From the set-up of the channels to the end of the memory, some milliseconds each time on."""
    argv = [
        str(x86_engine.binary),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", "q35", "-accel", "tcg", "-m", "1G", "-S"),
        *("-chardev", f"socket,id=q,path={paths.INSTANCE_QMP},server=on,wait=off"),
        *("-mon", "chardev=q,mode=control"),
    ]
    states = set()
    with (
        QemuProcess(argv, tmp_path) as process,
        QmpClient.connect(tmp_path / paths.INSTANCE_QMP, process=process) as qmp,
    ):
        for turn in range(100):
            qmp.execute("migrate-set-capabilities", {"capabilities": CAPABILITIES})
            qmp.execute("migrate-set-parameters", {"multifd-channels": 4})
            qmp.execute("migrate", {"uri": f"file:{tmp_path / 'state'}"})
            time.sleep(turn % 25 * 0.004)
            migration.settle(qmp)
            states.add(qmp.execute("query-migrate").get("status"))
            process.check_alive()
    assert "cancelled" in states
