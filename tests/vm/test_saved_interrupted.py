# SPDX-License-Identifier: GPL-2.0-or-later
"""Saving and going back that are interrupted or killed, or can't be proved: nothing is lost.

These machines are not waited for: QEMU is the same whatever its guest does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from machinehelp import TINY, end_all, eventually, qcow2_disk, report, sysqcache

from sysqcache.attribution.placer import LOOKING
from sysqcache.base import interrupts, paths
from sysqcache.base.errors import QmpError
from sysqcache.base.interrupts import Interrupted
from sysqcache.machine.instances import Instance
from sysqcache.machine.running import Machine
from sysqcache.qmp import blocknodes, commands, migration
from sysqcache.saved import slots, snapshots
from sysqcache.saved import suspend as suspending
from sysqcache.saved.goback import SAFETY
from sysqcache.saved.identity import devices
from sysqcache.saved.standing import standing
from sysqcache.spec.catalog import ImagePaths
from sysqcache.spec.engines import Engine

pytestmark = pytest.mark.vm

SAVED_STATE_ERROR = 19
INTERRUPTED = 130
NAME = "tiny"


@pytest.fixture
def machine(own_state: Path, tiny_image: ImagePaths, x86_engine: Engine) -> Iterator[str]:
    """A name; what runs ends with the test."""
    yield NAME
    end_all()


def start(file: Path, disk: Path, *arguments: str) -> None:
    """A machine that runs, whose guest has hardly begun."""
    lines = [f"qemu_args: {json.dumps(arguments)}", f"disks: [{{file: {disk}, mode: persistent}}]"]
    file.write_text("\n".join([TINY.read_text(), *lines]))
    sets = [part for one in ("agent=none", "ready.probe=none") for part in ("--set", one)]
    sysqcache("boot", file, "--cache", "off", "--detach", "--set", f"name={NAME}", *sets)


def error_of(*arguments: object, code: int = SAVED_STATE_ERROR) -> str:
    return sysqcache(*arguments, code=code).stderr


def saved_in(engine: Engine, disk: Path) -> list[str]:
    """Names of the snapshots in a disk."""
    command = [str(engine.qemu_img), "info", "-U", "--output=json", str(disk)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return [one["name"] for one in found.get("snapshots", [])]


def is_running() -> bool:
    return bool(report("status", NAME)["qemu_state"] == "running")


def plug() -> None:
    """Plug in a device that a resume would not have."""
    with Machine.attach(NAME) as one:
        one.qmp.execute("device_add", {"driver": "virtio-rng-pci", "id": "late"})


def unplug(one: Machine) -> None:
    """Take it out again, at a reset, as no driver in the guest would let it go."""
    one.qmp.execute("device_del", {"id": "late"})
    one.qmp.execute("system_reset")
    eventually(lambda: not any("late" in path for path in devices(one.qmp)))


def test_a_state_inside_the_disks_is_proved_too(
    machine: str, tmp_path: Path, x86_engine: Engine
) -> None:
    """From overlays, the disks stay as they are; this one names its base relatively."""
    base, disk = qcow2_disk(x86_engine, tmp_path), tmp_path / "above.qcow2"
    command = [
        str(x86_engine.qemu_img),
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        "-b",
        base.name,
    ]
    subprocess.run([*command, str(disk)], check=True)
    start(tmp_path / "vm.yaml", disk, "-device", "virtio-rng-pci,id=more")
    assert report("suspend", NAME, "--method", "internal")["method"] == "internal"
    assert report("resume", NAME)["start"] == "internal"
    before = saved_in(x86_engine, disk)
    assert len(before) == 1
    plug()
    error = error_of("suspend", NAME, "--method", "internal")
    assert "can't be resumed by the method internal" in error
    assert "the machine runs on, and what was saved before is intact" in error
    assert is_running()
    assert saved_in(x86_engine, disk) == before


def test_snapshots_and_commands_that_are_killed(
    machine: str, tmp_path: Path, x86_engine: Engine
) -> None:
    disk = qcow2_disk(x86_engine, tmp_path)
    start(tmp_path / "vm.yaml", disk)
    with Machine.attach(NAME) as one:
        (node,) = [found.name for found in blocknodes.disks(one.qmp)]
        migration.snapshot_save(one.qmp, "by-hand", [node])
        # as a kill leaves it: QEMU goes back, and nobody waits for it
        standing(one).__enter__()
        migration.snapshot_disks(one.qmp, SAFETY, [node])
        loading = {"tag": "by-hand", "vmstate": node, "devices": [node]}
        one.qmp.execute("snapshot-load", {"job-id": migration.LOAD, **loading})
    error = error_of("snapshot", "load", NAME, "by-hand")
    assert "nobody wrote down which machine 'by-hand' was saved of" in error
    assert "nothing was touched" in error
    assert is_running()
    assert saved_in(x86_engine, disk) == ["by-hand"]
    sysqcache("snapshot", "load", NAME, "by-hand", "--unchecked")
    # one that is stopped by somebody else stays so
    plug()
    with Machine.attach(NAME) as one:
        commands.stop(one.qmp)
    sysqcache("snapshot", "save", NAME, "A")
    assert not is_running()
    with Machine.attach(NAME) as one:
        commands.cont(one.qmp)
        unplug(one)
        # killed when QEMU has found that it does not fit, and before it was ended
        standing(one).__enter__()
        migration.snapshot_disks(one.qmp, SAFETY, [node])
        with pytest.raises(QmpError):
            migration.snapshot_load(one.qmp, "A", [node])
    error = error_of("suspend", NAME)
    assert "has ended: another command was killed" in error
    assert "its disks are as they were" in error
    assert not Instance(NAME).is_held()
    assert saved_in(x86_engine, disk) == ["by-hand", "A"]
    assert report("list")["machines"][0]["state"] == "stopped"


def test_saving_that_is_interrupted(machine: str, tmp_path: Path, x86_engine: Engine) -> None:
    disk = qcow2_disk(x86_engine, tmp_path)
    start(tmp_path / "vm.yaml", disk)
    for method in ("file", "internal", "snapshot"):
        interrupts._waiting.append(signal.SIGINT)  # as when it comes while C calls Python
        with pytest.raises(Interrupted, match="was not saved: interrupted"):
            if method == "snapshot":
                snapshots.save(NAME, "A")
            else:
                suspending.suspend(NAME, method, pytest.fail, lambda _: None)
        interrupts.check()  # it is answered
        assert is_running()
        assert not list(Instance(NAME).file(paths.INSTANCE_SAVED).glob(".new-*"))
        assert saved_in(x86_engine, disk) == []
    one = subprocess.Popen(
        [sys.executable, "-m", "sysqcache", "suspend", NAME, "--method", "file"],
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = Instance(NAME).file(paths.INSTANCE_SAVED)
    eventually(lambda: any(folder.glob(".new-*/state")), step=0.001)
    one.send_signal(signal.SIGTERM)
    one.communicate(timeout=120)
    # it goes on, or was saved before
    assert one.returncode in (0, INTERRUPTED)
    if not Instance(NAME).is_held():
        sysqcache("resume", NAME)
    assert is_running()

    def phase(name: str) -> None:
        if name == LOOKING:
            raise Interrupted

    warnings: list[str] = []
    # what is saved when the signal comes is saved, and does not go on besides
    suspending.suspend(NAME, "file", warnings.append, phase)
    assert any("interrupted" in text for text in warnings)
    assert not Instance(NAME).is_held()
    assert report("resume", NAME)["start"] == "file"


COPIES = """
import sys
from sysqcache.base.interrupts import handle_signals
from sysqcache.cli import app, list
sys.argv = ["sysqcache", "resume", sys.argv[1], "--copies", "2", "--task", "sleep 1000"]
app.main()
"""


def test_copies_that_are_interrupted_all_end(
    machine: str, tmp_path: Path, x86_engine: Engine
) -> None:
    text = TINY.read_text()
    (tmp_path / "vm.yaml").write_text(text)
    sets = [part for one in ("ready.probe=none",) for part in ("--set", one)]
    sysqcache("boot", tmp_path / "vm.yaml", "--detach", "--set", f"name={NAME}", *sets)
    sysqcache("suspend", NAME, "--method", "template")
    one = subprocess.Popen([sys.executable, "-c", COPIES, NAME], stderr=subprocess.PIPE, text=True)
    copies = [Instance(f"{NAME}-{number}") for number in (1, 2)]
    eventually(lambda: all(copy.is_held() for copy in copies))
    os.kill(one.pid, signal.SIGINT)
    said = one.communicate(timeout=120)[1]
    assert one.returncode == INTERRUPTED, said
    assert "none of the 2 copies runs" in said
    assert not any(copy.is_held() for copy in copies)
    assert slots.users(slots.current(NAME)[1]) == []
    assert {row["state"] for row in report("list")["machines"]} <= {"saved", "stopped"}
