# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine that goes on when its saving is cancelled, at whatever moment."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from qemuhelp import qemu

from sysqcache.base.errors import QmpError
from sysqcache.qmp import migration
from sysqcache.spec.engines import Engine

pytestmark = pytest.mark.qemu


def test_saving_is_cancelled_again_and_again(x86_engine: Engine, tmp_path: Path) -> None:
    """From the set-up of the channels to the end of the memory, some milliseconds each time on.

    A QEMU that has ended is an error of the next command to it.
    """
    states = set()
    with qemu(x86_engine, tmp_path, "-machine", "q35", "-m", "1G", "-S") as qmp:
        for turn in range(100):
            with contextlib.suppress(QmpError):  # it took longer
                migration.save_to_file(qmp, tmp_path / "state", timeout=turn % 25 * 0.004)
            migration.settle(qmp)
            states.add(qmp.execute("query-migrate").get("status"))
    assert "cancelled" in states
