# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache and internal snapshots: loadvm replaces the guest's memory under the blocks."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from enginehelp import Guest, Start, guest, record_pack
from machinehelp import NOKASLR

from sysqcache.base.types import CacheMode
from sysqcache.qmp.jobs import run_job
from sysqcache.spec.engines import find_engine

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("x86_engine", "tiny_image", "own_state")]


def scratch_disk(path: Path) -> Path:
    """An empty qcow2 image, which has room for a snapshot."""
    command = [find_engine("x86_64").qemu_img, "create", "-q", "-f", "qcow2", path, "1G"]
    subprocess.run([str(word) for word in command], check=True)
    return path


def snapshot(machine: Guest, command: str) -> None:
    """Save or load the snapshot ``s0``."""
    arguments = {"tag": "s0", "vmstate": node(machine), "devices": [node(machine)]}
    run_job(machine.qmp, f"snapshot-{command}", f"{command}0", arguments)


def node(machine: Guest) -> str:
    """Node name of the scratch disk."""
    names = [block["inserted"]["node-name"] for block in machine.qmp.execute("query-block")]
    assert len(names) == 1
    return str(names[0])


@pytest.mark.parametrize("mode", [CacheMode.ON, CacheMode.VERIFY])
def test_cache_survives_loadvm(tmp_path: Path, mode: CacheMode) -> None:
    disk = scratch_disk(tmp_path / "scratch.qcow2")
    sets = (NOKASLR, f"disks=[{{file: {disk}, mode: persistent}}]")
    pack, _cold = record_pack(tmp_path / "cold", sets)
    with guest(Start(mode, [pack], sets=sets), tmp_path / "run") as machine:
        machine.wait_ready()
        snapshot(machine, "save")
        machine.work()
        snapshot(machine, "load")
        machine.work()
        stats = machine.still_stats()
        assert stats.mismatches == 0, machine.info()["mismatch-log"]
        hits = stats.adopted + stats.verified
        assert hits > stats.requested * 0.5
