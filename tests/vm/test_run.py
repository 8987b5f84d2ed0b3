# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache run` on a Debian guest: what a command sees, and that nothing of it stays."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import workers
from debianhelp import DEBIAN
from machinehelp import eventually, sysqcache

import sysqcache as package
from sysqcache.base import paths
from sysqcache.base.errors import GuestCommandError

pytestmark = pytest.mark.vm

DIED = 14
COMMAND = [sys.executable, "-m", "sysqcache", "run"]


@pytest.fixture(scope="session")
def template_home(debian_cold: Path, shared: Path) -> Path:
    """A home in which the Debian guest's template is."""

    def make(folder: Path) -> None:
        home = folder / "home"
        home.mkdir()
        (home / "cache").symlink_to(paths.cache_dir(), target_is_directory=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(paths.ENV_HOME, str(home))
            patch.delenv(paths.ENV_STORE, raising=False)
            shutil.copytree(debian_cold / "store", paths.store_dir())
            sysqcache("run", DEBIAN, "--", "true", timeout=300)

    return workers.once(shared / "run-template", make) / "home"


@pytest.fixture(autouse=True)
def home(template_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """That home, in use; a test leaves it as it was."""
    monkeypatch.setenv(paths.ENV_HOME, str(template_home))
    monkeypatch.delenv(paths.ENV_STORE, raising=False)
    before = sorted(paths.instances_dir().iterdir())
    yield template_home
    assert sorted(paths.instances_dir().iterdir()) == before
    assert machines_running(template_home) == []


def machines_running(home: Path) -> list[str]:
    """Command lines of processes that have to do with a home."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(home) in line:
                found.append(line)
    return found


def run(
    *words: str, given: bytes = b"", timeout: float = 60.0
) -> subprocess.CompletedProcess[bytes]:
    """The words stand behind the source."""
    command = [*COMMAND, str(DEBIAN), *words]
    return subprocess.run(command, input=given, capture_output=True, timeout=timeout, check=False)


def begun(*words: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [*COMMAND, str(DEBIAN), *words], stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0
    )


def test_streams_and_status() -> None:
    content = os.urandom(1 << 20)
    done = run("--", "cat; echo to errors >&2; exit 7", given=content)
    assert done.stderr == b"to errors\n"
    assert done.stdout == content
    assert done.returncode == 7


def test_streams_while_it_runs() -> None:
    with begun("--", "echo one; read line; echo got $line; cat > /dev/null; echo end") as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"one\n"
        process.stdin.write(b"two\n")
        assert process.stdout.readline() == b"got two\n"
        process.stdin.close()
        assert process.stdout.read() == b"end\n"
    assert process.returncode == 0


@pytest.mark.parametrize("command", [["no-such-command"], ["no-such-command", "x"]])
def test_a_command_that_is_not_there(command: list[str]) -> None:
    done = run("--", *command)
    assert done.returncode == 127
    assert b"not found" in done.stderr


def test_what_the_command_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "it's\n$HOME")
    done = run(
        *("-e", "HERE", "--env", "THERE=a b", "-w", "/usr/lib", "--name", "its-name"),
        *("--", 'pwd; echo "$HERE $THERE"; hostname; id -un; date +%s'),
    )
    *said, clock = done.stdout.decode().splitlines()
    assert said == ["/usr/lib", "it's", "$HOME a b", "its-name", "root"], done.stderr
    assert abs(time.time() - int(clock)) < 30


def test_another_user() -> None:
    done = run("-u", "nobody", "--", "id", "-un")
    assert (done.returncode, done.stdout) == (0, b"nobody\n"), done.stderr


def test_each_run_begins_anew() -> None:
    assert run("--", "test ! -e /root/mark && touch /root/mark").returncode == 0
    assert run("--", "test ! -e /root/mark && touch /root/mark").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_command(number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    code = f"trap 'echo caught; exit 9' {name}; echo ready; while :; do sleep 0.1; done"
    with begun("--", code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.stdout.read() == b"caught\n"
    assert process.returncode == 9


def test_a_signal_ends_a_command_that_does_not_catch_it() -> None:
    with begun("--", "echo ready; exec sleep 100") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 128 + signal.SIGINT


def test_a_command_that_takes_no_signal_goes_with_its_machine() -> None:
    with begun("--", "trap '' INT TERM; echo ready; while :; do sleep 1; done") as process:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(3):
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        assert process.wait(30) == 130


def test_its_time_is_over() -> None:
    done = run("--timeout", "8", "--", "trap 'echo told; exit' TERM; while :; do sleep 0.1; done")
    assert (done.returncode, done.stdout) == (124, b"told\n")


def test_a_reader_that_leaves() -> None:
    words = [*COMMAND, str(DEBIAN), "--", "yes"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(30) == 128 + signal.SIGPIPE


def test_a_daemon_that_holds_the_output() -> None:
    done = run("--", "sleep 1000 & echo done")
    assert (done.returncode, done.stdout) == (0, b"done\n")


def test_a_guest_that_ends() -> None:
    done = run("--", "echo o > /proc/sysrq-trigger; sleep 100")
    assert done.returncode == DIED
    assert b"ended before the command had" in done.stderr


def test_a_run_that_is_killed_leaves_nothing_to_the_next(home: Path) -> None:
    with begun("--", "echo ready; sleep 1000") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    eventually(lambda: machines_running(home) == [])
    assert run("--", "true").returncode == 0


def test_a_terminal() -> None:
    ours, theirs = pty.openpty()
    code = "test -t 0 && test -t 1 && echo $TERM; read line; echo got $line; sleep 100"
    environ = os.environ | {"TERM": "vt220"}
    words = [*COMMAND, "-t", str(DEBIAN), "--", code]
    with subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=environ
    ) as process:
        os.close(theirs)
        read_until(ours, b"vt220")
        os.write(ours, b"hello\r")
        read_until(ours, b"got hello")
        os.write(ours, b"\x03")  # its own terminal makes a signal of it
        assert process.wait(30) == 128 + signal.SIGINT
    os.close(ours)


def read_until(terminal: int, text: bytes) -> None:
    said = b""
    while text not in said:
        said += os.read(terminal, 4096)


def test_copies_are_told_apart() -> None:
    code = "echo $SYSQCACHE_COPY of $SYSQCACHE_COPIES in $(hostname); exit $((SYSQCACHE_COPY - 1))"
    done = run("--copies", "2", "--name", "shard", "--", code)
    assert sorted(done.stdout.splitlines()) == [
        b"[1] 1 of 2 in shard-1",
        b"[2] 2 of 2 in shard-2",
    ], done.stderr
    assert done.returncode == 1


def test_detached_until_it_is_stopped(tmp_path: Path) -> None:
    done = run("--detach", "--name", "left", "--")
    assert (done.returncode, done.stdout) == (0, b"left\n"), done.stderr
    assert sysqcache("exec", "left", "--", "hostname").stdout == "left\n"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("copied")
    sysqcache("cp", tmp_path / "in", "left:/root/there")
    assert sysqcache("exec", "left", "--", "cat /root/there/file").stdout == "copied"
    sysqcache("cp", "left:/root/there", tmp_path / "out")
    assert (tmp_path / "out" / "file").read_text() == "copied"
    assert sysqcache("ssh", "left", "--", "hostname").stdout == "left\n"
    sysqcache("stop", "left", "--force")
    eventually(lambda: not paths.instance_dir("left").exists())


def test_a_machine_that_stays_is_not_taken_for_one_that_goes() -> None:
    template = next(path.name for path in paths.instances_dir().iterdir())
    done = run("--name", template, "--", "true")
    assert done.returncode == 12
    assert (paths.instance_dir(template) / "saved").is_dir()


def test_many_in_a_row_leave_no_file() -> None:
    folders = [paths.state_dir() / name for name in ("machines", "runs")]
    before = sorted(path for folder in folders for path in folder.rglob("*"))
    for _ in range(5):
        assert run("--", "true").returncode == 0
    assert sorted(path for folder in folders for path in folder.rglob("*")) == before


def test_machines_for_programs(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("tr a-z A-Z; echo $WHO >&2")
    with package.machine(DEBIAN) as vm:
        vm.put(tmp_path / "script", "/root/script")
        done = vm.run(["sh", "/root/script"], input=b"words\n", env={"WHO": "me"})
        assert (done.exit, done.stdout, done.stderr) == (0, b"WORDS\n", b"me\n")
        vm.run("echo made > /root/made")
        vm.get("/root/made", tmp_path / "made")
        with pytest.raises(GuestCommandError, match="exit 3"):
            vm.run("exit 3", check=True)
    assert (tmp_path / "made").read_text() == "made\n"
