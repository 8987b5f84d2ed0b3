# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines that have more than vm.yaml's fields say: nothing of it is lost or taken twice."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machinehelp import TINY, end_all, eventually, qcow2_disk, report, sysqcache

from sysqcache.base import paths
from sysqcache.formats import ramfile
from sysqcache.machine.instances import Instance
from sysqcache.machine.running import Machine
from sysqcache.qmp import blocknodes, migration
from sysqcache.qmp.client import QmpClient
from sysqcache.saved import proof
from sysqcache.saved import suspend as suspending
from sysqcache.spec.catalog import ImagePaths
from sysqcache.spec.engines import Engine

pytestmark = pytest.mark.vm

SAVED_STATE_ERROR = 19
NAME = "tiny"
MARK = "dd of=/dev/vd{} bs=512 seek=100 conv=sync 2> /dev/null; sync"


@pytest.fixture
def machine(own_state: Path, tiny_image: ImagePaths, x86_engine: Engine) -> Iterator[str]:
    """A name; what runs ends with the test."""
    yield NAME
    end_all()


def write(file: Path, *arguments: str, disk: Path | None = None) -> Path:
    """A vm.yaml of the tiny machine with ``qemu_args``, its code not kept."""
    text = TINY.read_text().replace("mode: on", "mode: off")
    text += f"qemu_args: {json.dumps(arguments)}\n"
    if disk is not None:
        text += f"disks: [{{file: {disk}, mode: persistent}}]\n"
    file.write_text(text)
    return file


def start(config: Path, *sets: str) -> None:
    options = [part for one in sets for part in ("--set", one)]
    sysqcache("boot", config, "--cache", "off", "--detach", "--set", f"name={NAME}", *options)


def put(word: str, letters: str) -> None:
    lines = [f"echo {word} | {MARK.format(letter)}" for letter in letters]
    sysqcache("exec", NAME, "--", "; ".join(lines))


def get(letters: str) -> str:
    lines = [f"dd if=/dev/vd{x} bs=512 skip=100 count=1 2> /dev/null | head -c 4" for x in letters]
    drop = "echo 3 > /proc/sys/vm/drop_caches"
    return sysqcache("exec", NAME, "--", "; ".join([drop, *lines])).stdout


def on_disk(engine: Engine, disk: Path) -> str:
    """What a disk holds that no machine uses."""
    raw = disk.with_suffix(".raw")
    command = [str(engine.qemu_img), "convert", "-O", "raw", str(disk), str(raw)]
    subprocess.run(command, check=True)
    with raw.open("rb") as stream:
        stream.seek(51200)
        return stream.read(4).decode()


def error_of(*arguments: object, code: int = SAVED_STATE_ERROR) -> str:
    return sysqcache(*arguments, code=code).stderr


def second_disk(engine: Engine, folder: Path) -> Path:
    folder.mkdir()
    return qcow2_disk(engine, folder)


def test_snapshots_hold_every_disk_and_know_their_machine(
    machine: str, tmp_path: Path, x86_engine: Engine
) -> None:
    first, second = qcow2_disk(x86_engine, tmp_path), second_disk(x86_engine, tmp_path / "x")
    config = write(
        tmp_path / "vm.yaml", "-drive", f"if=virtio,format=qcow2,file={second}", disk=first
    )
    start(config)
    put("AAAA", "ab")
    sysqcache("snapshot", "save", NAME, "A")
    put("BBBB", "ab")
    sysqcache("snapshot", "load", NAME, "A")
    assert get("ab") == "AAAAAAAA"
    # a second one of the name takes its place, and leaves no third
    put("CCCC", "ab")
    sysqcache("snapshot", "save", NAME, "A")
    put("BBBB", "ab")
    (listed,) = report("snapshot", "list", NAME)["snapshots"]
    assert listed["tag"] == "A"
    assert listed["belongs_to"]["memory"] == 256 << 20
    sysqcache("snapshot", "load", NAME, "A")
    assert get("ab") == "CCCCCCCC"
    killed_while_it_replaces()
    put("DDDD", "ab")
    refuses_other_machines(config)
    undoes_a_load_that_fails(config, x86_engine, (first, second))


def killed_while_it_replaces() -> None:
    """As a kill leaves it between the two steps: the new one counts, when all disks have it."""
    put("EEEE", "ab")
    with Machine.attach(NAME) as one:
        nodes = [disk.name for disk in blocknodes.disks(one.qmp)]
        migration.snapshot_save(one.qmp, "A~2", nodes)
        migration.snapshot_save(one.qmp, "A~3", ["disk0"])
    put("FFFF", "ab")
    assert [row["tag"] for row in report("snapshot", "list", NAME)["snapshots"]] == ["A"]
    sysqcache("snapshot", "load", NAME, "A", "--unchecked")
    assert get("ab") == "EEEEEEEE"
    sysqcache("snapshot", "save", NAME, "A")


def refuses_other_machines(config: Path) -> None:
    """Another CPU would have been taken without a word; other memory leaves half a guest."""
    sysqcache("stop", NAME, "--force")
    start(config, "memory=192MiB", "cpu=qemu64,+x2apic", "vcpus=2")
    error = error_of("snapshot", "load", NAME, "A")
    for what in ("memory: saved with 256 MiB, the machine has 192 MiB", "vcpus", "cpu: saved with"):
        assert what in error
    assert "nothing was touched" in error
    assert get("ab") == "DDDDDDDD"


def undoes_a_load_that_fails(config: Path, engine: Engine, disks: tuple[Path, ...]) -> None:
    """Nothing is known of the machine, so that QEMU finds out when the disks have gone back."""
    Instance(NAME).file(paths.INSTANCE_SNAPSHOTS).unlink()
    error = error_of("snapshot", "load", NAME, "A")
    assert "nobody wrote down which machine 'A' was saved of" in error
    assert get("ab") == "DDDDDDDD"
    error = error_of("snapshot", "load", NAME, "A", "--unchecked")
    assert "has ended" in error
    assert "its disks are as they were" in error
    assert not Instance(NAME).is_held()
    assert report("list")["machines"][0]["state"] == "stopped"
    assert [on_disk(engine, disk) for disk in disks] == ["DDDD", "DDDD"]
    # and the snapshots are what they were: one
    for disk in disks:
        command = [str(engine.qemu_img), "info", "--output=json", str(disk)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        assert [one["name"] for one in found["snapshots"]] == ["A~4"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_leaves_the_snapshot_before(
    machine: str, tmp_path: Path, x86_engine: Engine
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "none", str(small)], check=True)
    try:
        start(write(tmp_path / "vm.yaml", disk=qcow2_disk(x86_engine, small)))
        sysqcache("exec", NAME, "--", "echo old > /tmp/nonce")
        sysqcache("snapshot", "save", NAME, "A")
        with (small / "fill").open("wb") as stream:
            free = os.statvfs(small)
            stream.write(bytes(free.f_bavail * free.f_frsize - (8 << 20)))
        sysqcache("exec", NAME, "--", "echo new > /tmp/nonce")
        error = error_of("snapshot", "save", NAME, "A")
        assert f"no space left in {small}" in error
        assert "it runs on" in error
        assert sysqcache("exec", NAME, "--", "cat /tmp/nonce").stdout == "new\n"
        sysqcache("snapshot", "load", NAME, "A")
        assert sysqcache("exec", NAME, "--", "cat /tmp/nonce").stdout == "old\n"
    finally:
        end_all()
        eventually(lambda: not Instance(NAME).is_held())
        subprocess.run(["umount", str(small)], check=True)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def suspend(method: str = "auto") -> dict[str, Any]:
    return report("suspend", NAME, "--method", method)


def test_what_two_machines_can_not_have(machine: str, tmp_path: Path, x86_engine: Engine) -> None:
    """A writable disk is no template's; ports, sockets and files are no copies'."""
    disk, port = qcow2_disk(x86_engine, tmp_path), free_port()
    shared = [
        *("-gdb", f"tcp:127.0.0.1:{port}"),
        *("-chardev", f"socket,id=s0,path={tmp_path}/s0,server=on,wait=off"),
        *("-chardev", "socket,id=s1,path=own.sock,server=on,wait=off"),
        *("-chardev", f"file,id=f0,path={tmp_path}/log"),
    ]
    config = write(tmp_path / "vm.yaml", *shared)
    start(config)
    assert suspend()["method"] == "template"
    error = error_of("resume", NAME, "--copies", 2)
    for what in (f"port {port}", f"socket {tmp_path}/s0", f"file {tmp_path}/log"):
        assert what in error
    assert "own.sock" not in error
    assert [one["name"] for one in report("list")["machines"]] == [NAME]
    # one alone goes on, in the state that it was saved with
    assert report("resume", NAME, "--cache", "off", "--task", "true")["start"] == "template"
    drive = f"if=virtio,format=qcow2,file={disk}"
    start(write(config, "-m", "192M", "-drive", drive))
    error = error_of("suspend", NAME, "--method", "template")
    assert str(disk) in error
    done = suspend()
    assert done["method"] == "file"
    assert str(disk) in done["why"]
    assert "no copies" in error_of("resume", NAME, "--copies", 2)
    report("resume", NAME, "--cache", "off", "--task", f"echo x | {MARK.format('a')}")
    assert f"{disk} was changed since" in error_of("resume", NAME)


def test_memory_of_qemu_args_is_resumed_or_refused(machine: str, tmp_path: Path) -> None:
    """Suspend is done when the state was loaded once; a machine that it can't save runs on."""
    memory = "memory-backend-ram,id=m0,size=256M"
    config = write(tmp_path / "vm.yaml", "-object", memory, "-machine", "memory-backend=m0")
    start(config)
    assert "qemu_args" in error_of("suspend", NAME, "--method", "template")
    done = suspend()
    assert done["method"] == "file"
    assert "qemu_args" in done["why"]
    found = report("resume", NAME, "--cache", "off", "--task", "cat /proc/meminfo")
    assert found["times"]["tasks"][0]["exit"] == 0
    start(write(config))
    suspend("template")
    copies_are_all_or_none()
    # a device that a resume would not have
    sysqcache("resume", NAME, "--cache", "off")
    plug(Instance(NAME).file(paths.INSTANCE_QMP))
    error = error_of("suspend", NAME)
    assert "can't be resumed" in error
    assert "the machine runs on, and what was saved before is intact" in error
    assert report("status", NAME)["qemu_state"] == "running"


def never(*_: object) -> str:
    raise AssertionError("the QEMU that was started before did not load the state")


def test_a_resume_is_proved_by_a_qemu_that_was_started_before(
    machine: str, tmp_path: Path, x86_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest does not stand still for its start, and memory is mapped: where QEMU puts it."""
    monkeypatch.setattr(proof, "problem", never)
    more = ("-device", "virtio-rng-pci,id=more")
    config = write(tmp_path / "vm.yaml", *more, disk=qcow2_disk(x86_engine, tmp_path))
    for file, method in ((config, "file"), (write(tmp_path / "two.yaml", *more), "template")):
        start(file)
        sysqcache("exec", NAME, "--", f"echo {method} > /tmp/nonce")
        done = suspending.suspend(NAME, "auto", pytest.fail, lambda _: None)
        assert done.record.method == method
        name, size, offset = done.record.ram
        assert (size, offset) == (256 << 20, ramfile.first_offset(size)), name
        assert {path.name for path in done.directory.iterdir()} <= {"saved.json", "state"}
        found = report("resume", NAME, "--cache", "off", "--task", "cat /tmp/nonce")
        assert found["times"]["tasks"][0]["stdout"].strip() == method


def plug(qmp: Path) -> None:
    """Plug a network card in, as a program at the spare socket could."""
    with QmpClient.connect(qmp) as client:
        client.execute("device_add", {"driver": "virtio-rng-pci", "id": "late"})


def copies_are_all_or_none() -> None:
    # something in the way of the third: a folder where its state would be written
    blocked = Instance(f"{NAME}-3")
    blocked.file(paths.INSTANCE_STATE).mkdir(parents=True)
    done = sysqcache("resume", NAME, "--copies", 3, "--cache", "off", code=None)
    assert done.returncode != 0
    assert f"{NAME}-3" in done.stderr
    assert not any(Instance(f"{NAME}-{n}").is_held() for n in (1, 2, 3))
    states = {one["name"]: one["state"] for one in report("list")["machines"]}
    assert states[NAME] == "saved"
    assert "running" not in states.values()
    # a resume that fails leaves it saved
    Instance(NAME).file(paths.INSTANCE_OVERLAYS).write_text("in the way")
    failed = sysqcache("resume", NAME, "--cache", "off", code=None)
    assert failed.returncode != 0
    assert report("list")["machines"][0]["state"] == "saved"
    Instance(NAME).file(paths.INSTANCE_OVERLAYS).unlink()
