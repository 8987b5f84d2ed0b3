# SPDX-License-Identifier: GPL-2.0-or-later
"""Suspend and resume of real machines: what was in memory is there again, or nothing is lost."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import workers
from machinehelp import TINY, end_all, eventually, qcow2_disk, report, sysqcache

from sysqcache.base import paths
from sysqcache.machine.instances import Instance
from sysqcache.saved import slots
from sysqcache.saved.touched import MAGIC, WRITTEN
from sysqcache.spec.catalog import ImagePaths
from sysqcache.spec.engines import Engine

pytestmark = pytest.mark.vm

NAME = "tiny"
SAVED_STATE_ERROR = 19
BUSY = 12


@pytest.fixture
def machine(own_state: Path, template: Path) -> Iterator[str]:
    """A name; whatever runs under it, or as its copy, ends with the test.

    The store knows the guest already, so that little is new in each start.
    """
    shutil.copytree(template / "state" / "store", paths.store_dir())
    yield NAME
    end_all()


@pytest.fixture
def config(tmp_path: Path, x86_engine: Engine) -> Path:
    """The tiny machine with a disk that can hold snapshots."""
    disk = qcow2_disk(x86_engine, tmp_path)
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY.read_text() + f"disks:\n  - file: {disk}\n")
    return file


def start(config: Path = TINY) -> str:
    """Boot and leave in memory, and nowhere else, what the answer is."""
    sysqcache("boot", config, "--detach", "--set", f"name={NAME}")
    nonce = f"{random.getrandbits(64):016x}"
    sysqcache("exec", NAME, "--", f"echo {nonce} > /tmp/nonce")
    return nonce


def nonce_of(name: str = NAME) -> str:
    return sysqcache("exec", name, "--", "cat /tmp/nonce").stdout.strip()


def error_of(*arguments: object, code: int) -> str:
    return sysqcache(*arguments, code=code).stderr


def suspend(method: str = "auto") -> dict[str, Any]:
    return report("suspend", NAME, "--method", method)


@pytest.fixture(scope="session")
def template(x86_engine: Engine, tiny_image: ImagePaths, shared: Path) -> Path:
    """The ``state`` of a machine that was started and suspended, and its ``nonce``."""

    def make(folder: Path) -> None:
        cache = paths.cache_dir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(paths.ENV_HOME, str(folder))
            patch.delenv(paths.ENV_STORE, raising=False)
            (folder / "cache").symlink_to(cache, target_is_directory=True)
            nonce = start()
            suspend("template")
            sysqcache("list")  # keeps the blocks
        (folder / "nonce").write_text(nonce)

    return workers.once(shared / "template", make)


@pytest.fixture
def suspended(machine: str, template: Path) -> str:
    """As after ``start`` and ``suspend``: the machine is there, copied; its nonce."""
    # with the holes of the memory, which shutil would fill
    subprocess.run(["cp", "-a", template / "state" / "machines", paths.state_dir()], check=True)
    return (template / "nonce").read_text()


@pytest.fixture
def resumed(suspended: str) -> str:
    """As :func:`suspended`, and it runs: sooner than it would boot."""
    sysqcache("resume", NAME)
    return suspended


@pytest.mark.parametrize("method", ["template", "file", "internal"])
def test_memory_comes_back(machine: str, config: Path, method: str) -> None:
    nonce = start(config)
    done = suspend(method)
    assert done["method"] == method
    assert done["disk_bytes"] < 200 << 20
    listed = {row["name"]: row for row in report("list")["machines"]}
    assert listed[NAME]["state"] == "saved"
    for _ in range(2):  # it stays saved
        found = report("resume", NAME, "--task", "cat /tmp/nonce; echo other > /tmp/nonce")
        assert found["start"] == method
        assert found["times"]["tasks"][0]["stdout"].strip() == nonce
        assert found["warnings"] == []


def test_what_it_boots_from_is_gone(suspended: str, tmp_path: Path) -> None:
    """It is not needed before a reset, and QEMU does not start without it."""
    record = slots.current(NAME)[1] / slots.RECORD
    value = json.loads(record.read_text())
    for field in ("kernel", "initrd", "firmware"):
        spec = value["spec"] | {field: str(tmp_path / "gone")}
        record.write_text(json.dumps(value | {"spec": spec}))
        said = error_of("resume", NAME, code=SAVED_STATE_ERROR)
        assert f"{tmp_path}/gone is missing" in said


def test_a_resumed_machine_can_be_suspended_again(machine: str, config: Path) -> None:
    start(config)
    suspend("template")
    sysqcache("resume", NAME)
    sysqcache("exec", NAME, "--", "echo later > /tmp/nonce")
    suspend("template")
    sysqcache("resume", NAME)
    assert nonce_of() == "later"
    error = error_of("resume", NAME, code=BUSY)
    assert "running already" in error
    assert "running already" in error_of("boot", config, "--set", f"name={NAME}", code=BUSY)


def test_every_method_after_every_other(machine: str, config: Path) -> None:
    nonce = start(config)
    for method in ("file", "internal", "template", "internal", "file"):
        suspend(method)
        sysqcache("resume", NAME)
        assert nonce_of() == nonce


def test_auto_says_why(machine: str, config: Path) -> None:
    text = config.read_text() + "    mode: persistent\n"
    config.write_text(text)
    nonce = start(config)
    done = suspend()
    assert done["method"] == "file"
    assert "persistent" in done["why"]
    found = report("resume", NAME, "--task", "cat /tmp/nonce; echo x > /dev/vda; sync")
    assert found["times"]["tasks"][0]["stdout"].strip() == nonce
    # its memory does not fit the disk any more
    assert "was changed since" in error_of("resume", NAME, code=SAVED_STATE_ERROR)


@pytest.mark.usefixtures("suspended")
def test_blocks_are_verified_after_a_resume() -> None:
    found = report("resume", NAME, "--cache", "verify", "--task", "ls -lR /bin /etc | wc -l")
    blocks = found["blocks"]
    assert blocks["verified"] > 0
    assert blocks["mismatches"] == 0, blocks["mismatch_log"]


def unread(path: Path) -> tuple[int, ...]:
    """What of a file's metadata only reading leaves as it is."""
    found = path.stat()
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def test_pages_are_touched_ahead_the_second_time(suspended: str) -> None:
    """What the first resume touched is there when the second begins, and nothing is different."""
    nonce = suspended
    _, directory = slots.current(NAME)
    before = unread(directory / slots.STATE)
    task = "cat /tmp/nonce; ls -lR /bin > /tmp/list; echo other > /tmp/nonce"
    for touched in (False, True):
        assert (directory / slots.TOUCHED).exists() == touched
        found = report("resume", NAME, "--task", task)
        assert any("touched=" in part for part in Instance(NAME).read().argv) == touched
        assert found["times"]["tasks"][0]["stdout"].strip() == nonce
        assert found["warnings"] == []
        assert sum(found["blocks"]["rejected"].values()) == 0
    pages = np.frombuffer((directory / slots.TOUCHED).read_bytes()[8:], dtype="<u4")[1::2]
    written = pages[pages >= WRITTEN] - WRITTEN
    assert written.sum() > 100
    assert unread(directory / slots.STATE) == before


@pytest.mark.parametrize("how", ["garbage", "elsewhere", "writable", "short", "fifo"])
def test_bad_list_of_touched_pages(suspended: str, how: str) -> None:
    """Is counted where it is refused; the guest's memory is as it was."""
    nonce = suspended
    _, directory = slots.current(NAME)
    list_ = directory / slots.TOUCHED
    # from beyond the end of memory, from its last page on, and from nothing at all
    wild = np.array([0xFFFFFFFF, 0x7FFFFFFF, 0xFFFF, 0xFFFFFFFF, 0, 0], dtype="<u4").tobytes()
    match how:
        case "garbage":
            list_.write_bytes(random.randbytes(4096))
        case "elsewhere":
            list_.write_bytes(MAGIC + wild)
        case "writable":
            list_.write_bytes(MAGIC)
            list_.chmod(0o666)
        case "short":
            list_.write_bytes(MAGIC[:5])
        case _:
            os.mkfifo(list_)
    found = report("resume", NAME, "--task", "cat /tmp/nonce")
    assert found["times"]["tasks"][0]["stdout"].strip() == nonce
    reasons = {"garbage": "magic", "writable": "writable", "short": "truncated"}
    rejected = {name: n for name, n in found["blocks"]["rejected"].items() if n}
    assert rejected == ({reasons[how]: 1} if how in reasons else {})
    # a good one has taken its place
    assert list_.read_bytes()[:8] == MAGIC


def test_copies_from_one_template(suspended: str) -> None:
    nonce = suspended
    done = sysqcache("resume", NAME, "--copies", 3, "--json")
    reports = json.loads(done.stdout)
    names = [f"{NAME}-{n}" for n in (1, 2, 3)]
    assert [one["machine"] for one in reports] == names
    # what they share, the template's memory above all, is no part of it
    own = [one["own_memory_bytes"] for one in reports]
    assert all(4 << 20 < size < 64 << 20 for size in own), own
    # memory before speed: nothing is touched ahead of its use
    for name in names:
        argv = " ".join(Instance(name).read().argv)
        assert ",small-pages=on" in argv
        assert "touched=" not in argv
    drawn = {
        sysqcache("exec", name, "--", "head -c 16 /dev/urandom | md5sum").stdout for name in names
    }
    assert len(drawn) == 3
    hosts = set()
    for name in names:
        assert nonce_of(name) == nonce
        sysqcache("exec", name, "--", f"echo {name} > /tmp/nonce")
        hosts.add(sysqcache("exec", name, "--", "cat /proc/sys/kernel/hostname").stdout)
    assert [nonce_of(name) for name in names] == names  # memory is their own
    assert len(hosts) == 3
    error = error_of("snapshot", "delete", NAME, code=SAVED_STATE_ERROR)
    assert all(name in error for name in names)
    assert "running already" in error_of("resume", NAME, "--copies", 1, code=BUSY)
    for name in names:
        sysqcache("stop", name, "--force")
    sysqcache("snapshot", "delete", NAME)
    assert "is not saved" in error_of("resume", NAME, code=SAVED_STATE_ERROR)


@pytest.mark.usefixtures("resumed")
def test_only_templates_have_copies() -> None:
    suspend("file")
    assert "no copies" in error_of("resume", NAME, "--copies", 2, code=SAVED_STATE_ERROR)


def damage(path: Path, how: str) -> None:
    path.chmod(0o600)
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        os.truncate(path, path.stat().st_size - 4096)
    elif how == "other device state":
        flip(path, path.stat().st_size - 2000)
    else:
        flip(path, slots.current(NAME)[0].ram[2] + 0x100000)


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)
        stream.seek(offset)
        stream.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("how", ["missing", "truncated", "other device state", "other memory"])
@pytest.mark.usefixtures("suspended")
def test_damaged_states_are_refused(how: str) -> None:
    _, directory = slots.current(NAME)
    kept = directory.parent.parent / "kept"
    shutil.copyfile(directory / slots.STATE, kept)
    damage(directory / slots.STATE, how)
    error = error_of("resume", NAME, code=SAVED_STATE_ERROR)
    assert "is damaged" in error
    assert "sysqcache boot" in error
    # what was moved and is whole is believed
    kept.replace(directory / slots.STATE)
    assert report("resume", NAME, "--task", "true")["times"]["tasks"][0]["exit"] == 0


def test_changed_and_lost_disks_are_refused(machine: str, config: Path) -> None:
    start(config)
    suspend("template")
    disk = config.with_name("disk.qcow2")
    away = disk.rename(disk.with_name("away"))
    assert "is missing" in error_of("resume", NAME, code=SAVED_STATE_ERROR)
    away.rename(disk)
    assert report("resume", NAME, "--task", "true")["start"] == "template"
    flip(disk, disk.stat().st_size - 1)
    assert "was changed since" in error_of("resume", NAME, code=SAVED_STATE_ERROR)


def internal(config: Path) -> tuple[str, Path]:
    """A machine saved in its disk, which a resumed one has written to: nonce, disk."""
    nonce = start(config)
    sysqcache("exec", NAME, "--", f"echo disk-{nonce} | dd of=/dev/vda conv=fsync 2> /dev/null")
    suspend("internal")
    _, directory = slots.current(NAME)
    write = "dd if=/dev/urandom of=/dev/vda bs=1M seek=8 count=4 conv=fsync 2> /dev/null"
    report("resume", NAME, "--task", f"echo other > /tmp/nonce; {write}")
    return nonce, directory / "disk0.qcow2"


def test_internal_states_are_checked_whatever_was_written(machine: str, config: Path) -> None:
    nonce, disk = internal(config)
    image = disk.read_bytes()
    in_memory = re.compile(f"(?<!disk-){nonce}\n".encode())
    on_disk = re.compile(f"disk-{nonce}\n".encode())
    memory = next(in_memory.finditer(image)).start()
    # the guest's page cache has it too, at other places than the start of a cluster
    data = next(found.start() for found in on_disk.finditer(image) if found.start() % 65536 == 0)
    for place, what in ((memory, "its memory"), (data, "what its disk")):
        flip(disk, place)
        error = error_of("resume", NAME, code=SAVED_STATE_ERROR)
        assert what in error
        assert "is not what was saved" in error
        assert "sysqcache boot" in error
        flip(disk, place)
    task = "cat /tmp/nonce; dd if=/dev/vda bs=1k count=1 2> /dev/null | head -n 1"
    found = report("resume", NAME, "--task", task)
    assert found["times"]["tasks"][0]["stdout"].split() == [nonce, f"disk-{nonce}"]


def test_internal_states_outlive_machines_that_are_killed(machine: str, config: Path) -> None:
    """What a kill leaves in the disk's tables is no damage."""
    nonce = start(config)
    suspend("internal")
    for step in range(3):
        sysqcache("resume", NAME)
        assert nonce_of() == nonce
        writing = "while :; do dd if=/dev/urandom of=/dev/vda bs=64k count=900 2> /dev/null; done &"
        sysqcache("exec", NAME, "--", f"echo other > /tmp/nonce; {writing}")
        time.sleep(0.4 + 0.3 * step)
        os.kill(Instance(NAME).read().pid, signal.SIGKILL)
        eventually(lambda: not Instance(NAME).is_held())
    assert report("resume", NAME, "--task", "true")["start"] == "internal"


def test_internal_states_of_an_overlay_are_not_kept_one_beside_the_other(
    machine: str, config: Path, x86_engine: Engine
) -> None:
    nonce, _ = internal(config)
    sysqcache("resume", NAME)
    assert nonce_of() == nonce
    suspend("internal")
    record, directory = slots.current(NAME)
    command = [str(x86_engine.qemu_img), "snapshot", "-l", str(directory / "disk0.qcow2")]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert re.findall(r"sysqcache-\S+", listed) == [record.tag]
    sysqcache("resume", NAME)
    assert nonce_of() == nonce


def test_internal_states_with_damaged_tables(machine: str, config: Path) -> None:
    nonce, disk = internal(config)
    whole = disk.read_bytes()
    (table,) = struct.unpack_from(">Q", whole, 64)  # of snapshots
    (l1,) = struct.unpack_from(">Q", whole, table)
    (l2,) = struct.unpack_from(">Q", whole, l1)
    (refcounts,) = struct.unpack_from(">Q", whole, 48)
    (block,) = struct.unpack_from(">Q", whole, refcounts)
    for place, what in (
        (table + 5, "is damaged"),
        (l1 + 4, "is damaged"),
        ((l2 & (1 << 56) - 512) + 5, "tables of its snapshot"),
        (block + 9, "is damaged"),  # who writes next would take a cluster that is in use
    ):
        flip(disk, place)
        error = error_of("resume", NAME, code=SAVED_STATE_ERROR)
        assert what in error
        assert "sysqcache boot" in error
        flip(disk, place)
    os.truncate(disk, len(whole) // 2)
    assert "is damaged" in error_of("resume", NAME, code=SAVED_STATE_ERROR)
    disk.write_bytes(whole)
    found = report("resume", NAME, "--task", "cat /tmp/nonce")
    assert found["times"]["tasks"][0]["stdout"].strip() == nonce


@pytest.mark.usefixtures("suspended")
def test_an_engine_that_is_gone() -> None:
    record, directory = slots.current(NAME)
    content = (directory / slots.RECORD).read_text()
    (directory / slots.RECORD).write_text(content.replace(record.engine, "10.0.1-gone"))
    error = error_of("resume", NAME, code=SAVED_STATE_ERROR)
    assert "10.0.1-gone" in error


@pytest.mark.usefixtures("suspended")
def test_a_guest_that_resets_under_the_task_of_a_resume() -> None:
    reset = "echo b > /proc/sysrq-trigger; sleep 600"
    error = error_of("resume", NAME, "--task", reset, "--timeout", 100, code=17)
    assert f"tiny was reset while a command ran in it: {reset}" in error
    assert report("resume", NAME, "--task", "true")["start"] == "template"


@pytest.mark.usefixtures("suspended")
def test_a_cpu_model_that_is_gone() -> None:
    record, directory = slots.current(NAME)
    spec = dataclasses.replace(record.spec, cpu="qemu64-v99")
    slots.rewrite(directory, dataclasses.replace(record, spec=spec))
    for copies in ((), ("--copies", 1)):
        error = error_of("resume", NAME, *copies, code=SAVED_STATE_ERROR)
        assert "no CPU model qemu64-v99" in error
        assert "sysqcache boot" in error
    slots.rewrite(directory, record)
    assert report("resume", NAME, "--task", "true")["start"] == "template"


def test_suspend_while_suspending(resumed: str) -> None:
    nonce = resumed
    command = [sys.executable, "-m", "sysqcache", "suspend", NAME]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ended = [(one.communicate(timeout=120)[1], one.returncode) for one in both]
    codes = sorted(code for _, code in ended)
    assert codes[0] == 0, ended
    assert codes[1] in (10, BUSY, 14), ended  # suspending already, or not running any more
    sysqcache("resume", NAME)
    assert nonce_of() == nonce


@pytest.mark.slow
def test_a_killed_suspend_loses_nothing(resumed: str) -> None:
    nonce = resumed
    command = [sys.executable, "-m", "sysqcache", "suspend", NAME, "--method", "template"]
    begun = time.monotonic()
    sysqcache("suspend", NAME, "--method", "template")
    whole = time.monotonic() - begun
    sysqcache("resume", NAME)
    for step in range(10):
        one = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(whole * (0.3 + 0.7 * step / 10))
        one.send_signal(signal.SIGKILL)
        one.wait(20)
        if Instance(NAME).is_held():  # it runs, stands still, or is saved and not ended yet
            again = sysqcache("suspend", NAME, "--method", "template", code=None)
            assert again.returncode == 0 or "tiny is saved" in again.stderr, again.stderr
            assert not Instance(NAME).is_held()
        sysqcache("resume", NAME)
        assert nonce_of() == nonce


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_full_disk(machine: str, config: Path, tmp_path: Path) -> None:
    nonce = start(config)
    suspend("template")
    sysqcache("resume", NAME)
    target = Instance(NAME).file(paths.INSTANCE_SAVED)
    small = tmp_path / "small"
    small.mkdir()
    # what is saved is written to a file system with no room
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(small)], check=True)
    try:
        shutil.copytree(target, small / "copy", symlinks=True, ignore=_states)
        subprocess.run(["mount", "--bind", str(small / "copy"), str(target)], check=True)
        try:
            error = error_of("suspend", NAME, "--method", "template", code=SAVED_STATE_ERROR)
            assert "was not saved" in error
            assert "the machine runs on" in error
            assert nonce_of() == nonce
        finally:
            subprocess.run(["umount", str(target)], check=True)
    finally:
        subprocess.run(["umount", str(small)], check=True)
    suspend("template")
    sysqcache("resume", NAME)
    assert nonce_of() == nonce


def _states(directory: str, names: list[str]) -> list[str]:
    return [name for name in names if name == slots.STATE]


def test_compact_keeps_what_a_saved_machine_needs(machine: str) -> None:
    start()
    suspend("template")
    assert slots.current(NAME)[0].packs
    report("cache", "compact", "--max-bytes", "0")
    assert report("cache", "list")["modules"]
    sysqcache("snapshot", "delete", NAME)
    report("cache", "compact", "--max-bytes", "0")
    assert report("cache", "list")["modules"] == []


def test_snapshots_inside_the_disk(machine: str, config: Path) -> None:
    start(config)
    sysqcache("snapshot", "save", NAME, "before")
    sysqcache("exec", NAME, "--", "echo changed > /tmp/nonce")
    assert [one["tag"] for one in report("snapshot", "list", NAME)["snapshots"]] == ["before"]
    sysqcache("snapshot", "load", NAME, "before")
    assert nonce_of() != "changed"
    assert "no snapshot" in error_of("snapshot", "load", NAME, "other", code=SAVED_STATE_ERROR)
    sysqcache("snapshot", "delete", NAME, "before")
    assert report("snapshot", "list", NAME)["snapshots"] == []


def test_machines_that_can_not_be_suspended(machine: str) -> None:
    assert "no machine" in error_of("suspend", "nobody", code=11)
    start()
    assert "no disk" in error_of("suspend", NAME, "--method", "internal", code=SAVED_STATE_ERROR)
    assert "takes auto" in error_of("suspend", NAME, "--method", "magic", code=2)
    sysqcache("stop", NAME, "--force")
    assert "not running" in error_of("suspend", NAME, code=10)
    assert "is not saved" in error_of("resume", NAME, code=SAVED_STATE_ERROR)
