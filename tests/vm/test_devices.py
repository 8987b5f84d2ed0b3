# SPDX-License-Identifier: GPL-2.0-or-later
"""Block devices as disks: loop devices of a real host, which only root can have."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from machinehelp import TINY, end_all, report, sysqcache

from sysqcache.base.devices import device_size, device_state
from sysqcache.base.errors import SavedStateError
from sysqcache.base.types import DiskFormat, DiskMode
from sysqcache.machine.launch.overlay import prepare_disks
from sysqcache.saved import disks
from sysqcache.saved.record import FileIdentity, Method, SavedDisk
from sysqcache.spec.catalog import ImagePaths
from sysqcache.spec.engines import Engine
from sysqcache.spec.spec import Disk

pytestmark = pytest.mark.vm

DISK_ERROR, SAVED_STATE_ERROR = 18, 19
SIZE = 16 << 20


def loop(file: Path, *options: str) -> str:
    command = ["losetup", "--show", *options, "-f", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"there are no loop devices: {done.stderr.strip()}")
    return done.stdout.strip()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """An empty device of 16 MiB."""
    file = tmp_path / "below"
    file.write_bytes(bytes(SIZE))
    path = Path(loop(file))
    yield path
    subprocess.run(["losetup", "-d", path], check=True)


@pytest.fixture
def machine(own_state: Path, x86_engine: Engine, tiny_image: ImagePaths) -> Iterator[None]:
    yield
    end_all()


def config(tmp_path: Path, *disks: str) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY.read_text() + f"disks: [{', '.join(disks)}]\n")
    return file


def write(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b", buffering=0) as stream:
        stream.seek(offset)
        stream.write(data)


def test_what_is_known_of_a_device(device: Path, tmp_path: Path) -> None:
    assert device_size(device) == SIZE
    first = FileIdentity.of(device)
    device.read_bytes()
    os.utime(device)
    assert FileIdentity.of(device) == first
    with device.open("r+b", buffering=0) as stream:
        stream.write(b"not even written back")
        second = FileIdentity.of(device)
        assert second != first
    write(tmp_path / "below", 4096, b"past the device")
    third = FileIdentity.of(device)
    assert third not in (first, second)
    subprocess.run(["losetup", "-d", device], check=True)
    subprocess.run(["losetup", device, tmp_path / "below"], check=True)
    assert FileIdentity.of(device) != third
    assert device_state(tmp_path / "below") == ""


def test_every_mode_of_a_device(
    machine: None, device: Path, tmp_path: Path, x86_engine: Engine
) -> None:
    """One boot: what the guest writes is where its disk's mode says."""
    inside, qcow2 = tmp_path / "inside", tmp_path / "as-qcow2"
    inside.write_bytes(b"ephemeral".ljust(SIZE, b"\0"))
    qcow2.write_bytes(bytes(SIZE))
    others = [Path(loop(inside)), Path(loop(inside, "-r")), Path(loop(qcow2))]
    command = [str(x86_engine.qemu_img), "create", "-q", "-f", "qcow2", str(others[2]), "8M"]
    try:
        subprocess.run(command, check=True)
        file = config(
            tmp_path,
            f"{{file: {device}, mode: persistent}}",
            f"{{file: {others[0]}}}",
            f"{{file: {others[1]}, mode: read-only}}",
            f"{{file: {others[2]}, mode: persistent}}",
        )
        tasks = (
            "printf guest > /dev/vda; printf lost > /dev/vdb; printf packed > /dev/vdd; sync",
            "head -c 9 /dev/vdc",
            "printf refused > /dev/vdc",
        )
        found = report("boot", file, *(part for task in tasks for part in ("--task", task)))
        done = found["times"]["tasks"]
        assert [task["exit"] == 0 for task in done] == [True, True, False]
        assert done[1]["stdout"] == "ephemeral"
        assert device.read_bytes()[:5] == b"guest"
        assert inside.read_bytes()[:9] == b"ephemeral"
        back = tmp_path / "back"
        convert = ["convert", "-f", "qcow2", "-O", "raw", str(others[2]), str(back)]
        subprocess.run([x86_engine.qemu_img, *convert], check=True)
        assert back.read_bytes()[:6] == b"packed"
    finally:
        subprocess.run(["losetup", "-d", *others], check=True)


def test_a_device_that_was_written_to_is_not_resumed(
    machine: None, device: Path, tmp_path: Path
) -> None:
    sysqcache("boot", config(tmp_path, f"{{file: {device}}}"), "--detach")
    sysqcache("suspend", "tiny")
    report("resume", "tiny", "--task", "cat /dev/vda > /dev/null")
    write(device, SIZE - 512, b"changed")
    said = sysqcache("resume", "tiny", code=SAVED_STATE_ERROR).stderr
    assert f"{device} is a device that was written to" in said


@pytest.mark.parametrize("mode", DiskMode)
def test_a_saved_disk_knows_its_device(
    device: Path, tmp_path: Path, mode: DiskMode, x86_engine: Engine
) -> None:
    tool, overlays = x86_engine.qemu_img, tmp_path / "overlays"
    disk = Disk(device, DiskFormat.RAW, mode, device=True)
    prepared = prepare_disks([disk], overlays, tool)
    assert prepared[0].device == (mode is not DiskMode.EPHEMERAL)
    slot = tmp_path / "slot"
    slot.mkdir()
    (saved,) = disks.freeze([disk], overlays, slot, tool)
    disks.check("tiny", saved, slot, tool)
    assert saved == SavedDisk.from_json(json.loads(json.dumps(dataclasses.asdict(saved))))
    back = disks.thaw([saved], Method.FILE, slot, tmp_path / "back", tool)
    assert back[0].device == prepared[0].device
    write(device, 512, b"changed")
    with pytest.raises(SavedStateError, match="was written to"):
        disks.check("tiny", saved, slot, tool)
    subprocess.run(["losetup", "-d", device], check=True)
    with pytest.raises(SavedStateError, match="can't be asked") as caught:
        disks.check("tiny", saved, slot, tool)
    assert "forgets it" in caught.value.hint
    subprocess.run(["losetup", device, tmp_path / "below"], check=True)


def test_devices_that_can_not_be_used(device: Path, tmp_path: Path, own_state: Path) -> None:
    file = config(tmp_path, f"{{file: {device}, mode: persistent}}")
    subprocess.run(["mke2fs", "-q", device], check=True, env={"PATH": "/usr/sbin:/sbin"})
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run(["mount", device, place], check=True)
    try:
        said = sysqcache("boot", file, code=DISK_ERROR).stderr
    finally:
        subprocess.run(["umount", place], check=True)
    assert f"{device} is mounted" in said
    read_only = loop(tmp_path / "below", "-r")
    try:
        file = config(tmp_path, f"{{file: {read_only}, mode: persistent}}")
        assert "can't be written" in sysqcache("boot", file, code=DISK_ERROR).stderr
    finally:
        subprocess.run(["losetup", "-d", read_only], check=True)
    file = config(tmp_path, f"{{file: {read_only}}}")
    assert "holds nothing" in sysqcache("boot", file, code=DISK_ERROR).stderr
