# SPDX-License-Identifier: GPL-2.0-or-later
"""The short form of ``python -m bench.soak``: machines and upkeep of the store side by side."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.soak import soak

SECONDS = 1
KILLS = 30


@pytest.mark.vm
@pytest.mark.slow
@pytest.mark.usefixtures("x86_engine", "tiny_image")
def test_machines_on_one_store_leave_it_as_it_was(tmp_path: Path) -> None:
    faults = soak(tmp_path, machines=2, seconds=SECONDS, seed=5, rounds=1)
    assert faults.found == []
    done = set(faults.counts)
    assert {"task", "saved"} <= done
    assert done & {"killed_machine", "killed_command", "killed_suspend"}
    assert done & {"cache verify", "cache compact", "cache rebuild", "cache export"}


def test_killed_writers_leave_a_whole_store(tmp_path: Path) -> None:
    """In a process of its own: it forks, which one with threads, as pytest's workers are, can't."""
    command = [sys.executable, "-m", "bench.soak", "--kills", str(KILLS), "--seed", "3"]
    root = Path(__file__).parents[2]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{KILLS} kills" in done.stderr
