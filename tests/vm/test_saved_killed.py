# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands that are killed while they save a guest or take it back, and terminals that are closed.

The guest's disk and its memory hold the same number, whenever it is looked at.
"""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machinehelp import TINY, end_all, eventually, qcow2_disk, report, sysqcache

from sysqcache.base import interrupts, paths
from sysqcache.base.interrupts import Interrupted
from sysqcache.machine.instances import Instance
from sysqcache.machine.running import Machine
from sysqcache.qmp import commands, migration
from sysqcache.saved import slots
from sysqcache.saved import suspend as suspending
from sysqcache.spec.catalog import ImagePaths
from sysqcache.spec.engines import Engine

pytestmark = pytest.mark.vm

NAME = "tiny"
KILLED = -signal.SIGKILL
INTERRUPTED = 130

COMMAND = """
import os, signal, sys
from sysqcache.cli import app
from sysqcache.qmp.client import QmpClient
from sysqcache.saved import slots

wanted, sys.argv = sys.argv[1], ["sysqcache", *sys.argv[2:]]

def killed_after(owner, name):
    real = getattr(owner, name)
    def call(*arguments, **options):
        answer = real(*arguments, **options)
        if wanted in (name, *arguments[1:2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
    setattr(owner, name, call)

killed_after(QmpClient, "execute")
killed_after(slots, "publish")
app.main()
"""
"""A command of ours that is killed once QEMU has taken a command of its own."""


def killed_at(point: str, *arguments: str) -> None:
    command = [sys.executable, "-c", COMMAND, point, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == KILLED, done.stdout + done.stderr


@pytest.fixture
def disk(own_state: Path, tiny_image: ImagePaths, x86_engine: Engine, tmp_path: Path) -> Path:
    """A disk of the machine's own; what runs ends with the test."""
    return qcow2_disk(x86_engine, tmp_path)


@pytest.fixture
def guest(disk: Path, tmp_path: Path) -> Iterator[Path]:
    """A machine that runs, with that disk."""
    file = tmp_path / "vm.yaml"
    file.write_text(f"{TINY.read_text()}\ndisks: [{{file: {disk}, mode: persistent}}]\n")
    sysqcache("boot", file, "--cache", "off", "--detach")
    try:
        yield disk
    finally:
        end_all()


def put(number: int) -> None:
    """Let memory and disk hold a number."""
    line = f"echo {number} > /tmp/n; dd if=/tmp/n of=/dev/vda conv=notrunc,sync oflag=direct bs=512"
    sysqcache("exec", NAME, "--", f"mkdir -p /tmp; {line} 2>/dev/null")


def held() -> int:
    """The number in memory and on the disk, which must be the same."""
    line = "cat /tmp/n; dd if=/dev/vda iflag=direct bs=512 count=1 2>/dev/null | head -n 1"
    memory, on_disk = sysqcache("exec", NAME, "--", line).stdout.split()
    assert memory == on_disk
    return int(memory)


def snapshots_in(engine: Engine, disk: Path) -> list[str]:
    command = [str(engine.qemu_img), "snapshot", "-U", "-l", str(disk)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [line.split()[1] for line in lines[2:]]


def require_whole(engine: Engine, disk: Path) -> None:
    """A disk that nobody has open is whole."""
    command = [str(engine.qemu_img), "check", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stdout + done.stderr  # 3: leaked clusters


def test_a_snapshot_load_that_is_killed(guest: Path, x86_engine: Engine) -> None:
    put(1)
    sysqcache("snapshot", "save", NAME, "A")
    for point, number in (("stop", 2), ("transaction", 2), ("snapshot-load", 1)):
        put(2)
        killed_at(point, "snapshot", "load", NAME, "A")
        assert report("status", NAME)["stands_still"]
        assert held() == number
        assert report("status", NAME)["stands_still"] is None
        assert snapshots_in(x86_engine, guest) == ["A"]
    sysqcache("snapshot", "load", NAME, "A")
    assert held() == 1
    put(3)
    killed_at("snapshot-save", "snapshot", "save", NAME, "A")
    assert held() == 3
    sysqcache("snapshot", "save", NAME, "A")
    assert held() == 3
    killed_at("transaction", "snapshot", "load", NAME, "A")
    # the guest writes what it holds when it is asked to power off
    assert report("stop", NAME)["ended_by"] == "guest"
    require_whole(x86_engine, guest)


@pytest.mark.parametrize("method", ["file", "internal"])
def test_a_suspend_that_is_killed(guest: Path, x86_engine: Engine, method: str) -> None:
    move = "migrate" if method == "file" else "snapshot-save"
    for number, point in enumerate(("stop", move), 1):
        put(number)
        killed_at(point, "suspend", NAME, "--method", method)
        assert held() == number
        assert snapshots_in(x86_engine, guest) == []
    for number, point in enumerate(("publish", "quit"), 5):
        put(number)
        killed_at(point, "suspend", NAME, "--method", method)
        # it is saved, and must not go on besides
        if point == "publish":
            assert "is saved" in sysqcache("exec", NAME, "--", "true", code=19).stderr
        eventually(lambda: not Instance(NAME).is_held())
        assert report("resume", NAME)["start"] == method
        assert held() == number
    sysqcache("stop", NAME)
    require_whole(x86_engine, guest)


def current_tag() -> str:
    return slots.current(NAME)[0].tag


def test_only_the_newest_of_internal_states_stays(guest: Path, x86_engine: Engine) -> None:
    """Each has all of the guest's memory."""
    sysqcache("snapshot", "save", NAME, "mine")
    for number in range(1, 4):
        put(number)
        sysqcache("suspend", NAME, "--method", "internal")
        assert snapshots_in(x86_engine, guest) == ["mine", current_tag()]
        require_whole(x86_engine, guest)
        assert report("resume", NAME)["start"] == "internal"
        assert held() == number
    # to be gone back to until the next is safe
    before = current_tag()
    sysqcache("suspend", NAME, "--method", "file")
    assert before in snapshots_in(x86_engine, guest)
    sysqcache("resume", NAME)
    put(4)
    sysqcache("suspend", NAME, "--method", "file")
    assert snapshots_in(x86_engine, guest) == ["mine"]
    sysqcache("resume", NAME)
    assert held() == 4
    sysqcache("snapshot", "load", NAME, "mine")


def test_a_forgotten_internal_state_leaves_the_disk(guest: Path, x86_engine: Engine) -> None:
    put(1)
    sysqcache("suspend", NAME, "--method", "internal")
    sysqcache("snapshot", "delete", NAME)
    assert snapshots_in(x86_engine, guest) == []
    require_whole(x86_engine, guest)


def test_a_suspend_that_is_killed_has_the_state_before_or_the_new_one(
    guest: Path, x86_engine: Engine
) -> None:
    """Until the new one is the saved machine, that of before is in the disk, and no longer."""
    put(1)
    sysqcache("suspend", NAME, "--method", "internal")
    sysqcache("resume", NAME)
    old = current_tag()
    for point in ("stop", "snapshot-save"):
        killed_at(point, "suspend", NAME, "--method", "internal")
        assert old in snapshots_in(x86_engine, guest)
        assert held() == 1
    for number, point in enumerate(("publish", "snapshot-delete", "quit"), 2):
        put(number)
        killed_at(point, "suspend", NAME, "--method", "internal")
        if point != "quit":
            assert "is saved" in sysqcache("exec", NAME, "--", "true", code=19).stderr
        eventually(lambda: not Instance(NAME).is_held())
        assert current_tag() != old
        assert snapshots_in(x86_engine, guest) == [current_tag()]
        assert report("resume", NAME)["start"] == "internal"
        assert held() == number
        old = current_tag()
    sysqcache("stop", NAME)
    require_whole(x86_engine, guest)


def test_states_that_earlier_versions_left(guest: Path, x86_engine: Engine) -> None:
    """Nobody knows them any more, but by their names; the disk has been written to since."""
    left = "sysqcache-20260101T000000-0123ab"
    others = ["sysqcache-mine", "sysqcache-20260101T000000"]
    with Machine.attach(NAME) as machine:
        for tag in (left, *others):
            migration.snapshot_save(machine.qmp, tag, ["disk0"])
    put(1)
    sysqcache("suspend", NAME, "--method", "internal")
    assert snapshots_in(x86_engine, guest) == [*others, current_tag()]


@pytest.mark.parametrize("method", ["file", "internal"])
def test_a_resume_that_is_killed(guest: Path, x86_engine: Engine, method: str) -> None:
    put(1)
    sysqcache("suspend", NAME, "--method", method)
    killed_at("migrate-incoming" if method == "file" else "snapshot-load", "resume", NAME)
    left = Instance(NAME).read().process
    assert left.alive()
    sysqcache("resume", NAME)
    assert not left.alive()
    assert held() == 1
    sysqcache("stop", NAME)
    require_whole(x86_engine, guest)


def closed_when(condition: Callable[[], bool], *arguments: object) -> int:
    """The exit code of a command whose terminal is closed in its midst."""
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover - another program
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.execv(sys.executable, [sys.executable, "-m", "sysqcache", *map(str, arguments)])
    eventually(condition, step=0.001)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def qemus() -> list[str]:
    """Processes of engines that run with this test's state."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            where = str((process / "cwd").readlink())
            if where.startswith(str(paths.state_dir())):
                found.append(f"{process.name} {where}")
    return found


@pytest.mark.parametrize("arguments", [(), ("--task", "sleep 1000"), ("--copies", "2")])
def test_a_terminal_that_is_closed_while_a_machine_is_resumed(
    disk: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    sysqcache("boot", TINY, "--cache", "off", "--detach")
    sysqcache("exec", NAME, "--", "mkdir -p /tmp; echo 1 > /tmp/n")
    sysqcache("suspend", NAME, "--method", "template")
    first = f"{NAME}-1" if "--copies" in arguments else NAME
    closed_when(lambda: Instance(first).is_held(), "resume", NAME, *arguments)
    names = [row["name"] for row in report("list")["machines"] if row["state"] == "running"]
    # it was through, or nothing is left
    assert len(qemus()) == len(names) in ((0, 2) if "--copies" in arguments else (0, 1))
    end_all()
    eventually(lambda: not qemus())
    sysqcache("resume", NAME)
    assert sysqcache("exec", NAME, "--", "cat /tmp/n").stdout == "1\n"
    end_all()


def test_a_terminal_that_is_closed_while_ways_are_compared(disk: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    ways = ("--ways", "cold,template", "--runs", "1", "--html", page)
    code = closed_when(lambda: bool(qemus()), "compare", TINY, *ways)
    assert code in (0, INTERRUPTED)
    assert qemus() == []
    assert not list(paths.state_dir().glob("compare-*"))


def test_a_guest_that_stands_still_is_told_of(guest: Path) -> None:
    with Machine.attach(NAME) as machine:
        commands.stop(machine.qmp)
    said = sysqcache("exec", NAME, "--", "true", code=17).stderr
    assert "tiny stands still: it is paused" in said
    assert "cont lets it go on" in said
    assert "it is paused" in report("status", NAME)["stands_still"]
    # whoever stopped it has not let it go on: saving does not either
    interrupts._waiting.append(signal.SIGINT)
    with pytest.raises(Interrupted, match="the machine stands still, as before"):
        suspending.suspend(NAME, "file", pytest.fail, lambda _: None)
    assert "it is paused" in report("status", NAME)["stands_still"]
    # what it holds is not lost
    stopped = report("stop", NAME)
    assert stopped["ended_by"] == "guest"
