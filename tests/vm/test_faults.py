# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes wrong while a machine starts, runs or ends."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from machinehelp import (
    TINY,
    Background,
    boot,
    end_all,
    eventually,
    report,
    stored_blocks,
    sysqcache,
)
from required import require_memory_group

from sysqcache.base import paths, system
from sysqcache.machine.instances import Instance, _holders
from sysqcache.machine.launch.process import wait_pid

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("x86_engine", "tiny_image", "own_state")]


def test_detached_machine_from_start_to_stop() -> None:
    started = boot("--detach")
    assert started["detached"]
    assert started["cache"]["ingest_s"] == 0
    second = sysqcache("boot", TINY, code=12)
    assert "running already" in second.stderr
    status = report("status", "tiny")
    assert status["state"] == "running"
    assert status["qemu_state"] == "running"
    assert status["blocks"]["requested"] > 0
    done = sysqcache("exec", "tiny", "--", "sh", "-c", "echo 'a  b'; exit 7", code=7)
    assert done.stdout == "a  b\n"
    stopped = report("stop", "tiny")
    assert stopped["ended_by"] == "guest"
    assert stopped["blocks"]["requested"] >= status["blocks"]["requested"]
    assert report("list")["machines"][0]["state"] == "stopped"
    assert stored_blocks() > 10_000
    assert list((paths.store_dir() / paths.STORE_JOURNALS).iterdir()) == []


def test_two_boots_at_once() -> None:
    with Background("--cache", "off", "--until", "exit") as first:
        eventually((paths.instance_dir("tiny") / paths.INSTANCE_STATE).exists)
        sysqcache("boot", TINY, "--cache", "off", code=12)
        first.wait_running()
        sysqcache("boot", TINY, "--cache", "off", code=12)
        other = boot("--cache", "off", "--set", "name=other")
        assert other["machine"] == "other"
        sysqcache("stop", "tiny")
        code, _, err = first.finish()
        assert code == 0, err


def test_a_control_group_with_too_little_memory(tmp_path: Path) -> None:
    """The kernel ends QEMU then, and tells nobody why."""
    with require_memory_group(f"sysqcache-{os.getpid()}", 128 << 20) as group:
        command = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group)]
        command += [sys.executable, "-m", "sysqcache", "boot", str(TINY)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 14, done.stderr
        assert "killed by SIGKILL" in done.stderr
        assert system.hint(errno.ENOMEM) in done.stderr
        [listed] = report("list")["machines"]
        assert listed["state"] == "stopped"
        eventually(lambda: not group.read_text())
    assert report("cache", "verify")["problems"] == []
    assert boot()["times"]["ready_s"]


def test_qemu_is_killed() -> None:
    with Background("--until", "exit") as first:
        machine = first.wait_running()
        os.kill(machine.pid, signal.SIGKILL)
        code, _, err = first.finish()
    assert code == 14
    assert "killed by SIGKILL" in err
    [listed] = report("list")["machines"]
    assert listed["state"] == "stopped"
    assert "SIGKILL" in listed["error"]
    assert stored_blocks() > 10_000
    assert boot()["blocks"]["hit_rate"] > 0.5


def test_the_controller_is_killed() -> None:
    with Background("--until", "exit") as first:
        machine = first.wait_running()
        first.signal(signal.SIGKILL)
        assert wait_pid(machine.pid, 10.0)
    listed = sysqcache("list", "--json")
    assert '"dead"' in listed.stdout
    assert "kept the blocks of 1 earlier run" in listed.stderr
    assert stored_blocks() > 10_000
    sysqcache("exec", "tiny", "--", "true", code=10)
    assert boot()["blocks"]["hit_rate"] > 0.5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_interrupt_powers_off_and_keeps_blocks(number: signal.Signals) -> None:
    with Background("--until", "exit", "--json") as first:
        first.wait_running()
        first.signal(number)
        code, out, err = first.finish()
    assert code == 130, err
    assert '"interrupted": true' in out
    assert stored_blocks() > 10_000


LOST = """
import gc, os, signal, sys
from pathlib import Path
from sysqcache.attribution.placer import LOOKING
from sysqcache.base.interrupts import handle_signals
from sysqcache.machine.life import BootOptions, Until
from sysqcache.machine.progress import PhaseBegan
from sysqcache.machine.start import boot
from sysqcache.spec.resolve import load

def signalled(phase, info):
    gc.callbacks.clear()
    os.kill(os.getpid(), signal.SIGINT)

def listener(event):
    if isinstance(event, PhaseBegan) and event.name == LOOKING:
        gc.callbacks.append(signalled)
        gc.collect()

handle_signals()
print(boot(load(Path(sys.argv[1]), []), BootOptions(until=Until.EXIT), listener).interrupted)
"""


def test_an_interrupt_in_a_callback_from_c_is_not_lost() -> None:
    """Python prints what is raised there, and goes on."""
    command = [sys.executable, "-c", LOST, str(TINY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "Exception ignored" in done.stderr
    assert done.stdout == "True\n"


SIGNALLED = """
import importlib, os, signal, sys
from sysqcache.cli.app import main

module, path, when = sys.argv[1:4]
*owners, name = path.split(".")
owner = importlib.import_module(module)
for one in owners:
    owner = getattr(owner, one)
plain = getattr(owner, name)

def signalled(*arguments, **named):
    wanted = name != "_fork_exec" or "qemu-system" in repr(arguments[0])
    if wanted:
        setattr(owner, name, plain)
    if wanted and when == "before":
        os.kill(os.getpid(), signal.SIGTERM)
    done = plain(*arguments, **named)
    if wanted and when == "after":
        os.kill(os.getpid(), signal.SIGTERM)
    return done

setattr(owner, name, signalled)
del sys.argv[1:4]
main()
"""
"""The command, with a signal before or after the first call of one function."""


@pytest.mark.parametrize(
    ("where", "when", "runs"),
    [
        ("subprocess:_fork_exec", "after", False),
        ("sysqcache.qmp.client:QmpClient.connect", "before", False),
        ("sysqcache.attribution.placer:Placer.place", "before", False),
        ("sysqcache.machine.launch.process:QemuProcess.release", "before", True),
        ("sysqcache.machine.launch.process:QemuProcess.release", "after", True),
        ("sysqcache.machine.cache:StartSet.close", "before", True),
        ("sysqcache.cli.bootview:print_report", "before", True),
    ],
)
def test_a_detached_machine_has_ended_or_is_known(where: str, when: str, runs: bool) -> None:
    """Whenever the signal comes; and the command says which."""
    command = [sys.executable, "-c", SIGNALLED, *where.split(":"), when, "boot", str(TINY)]
    command += ["--detach", "--set", "ready={probe: none}", "--set", "poweroff_timeout=1s"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    state = Instance("tiny").current()
    try:
        assert "Traceback" not in done.stderr
        assert done.returncode == (0 if runs else 130), done.stderr
        said = "tiny is running" if runs else "interrupted: tiny (has ended|does not run)"
        assert re.search(said, done.stderr), done.stderr
        assert (state.state, Instance("tiny").is_held()) == (
            ("running", True) if runs else ("stopped", False)
        )
        if runs:
            assert report("status", "tiny")["qemu_state"] == "running"
    finally:
        end_all()
        # and one that nobody has written down
        for left in _holders(Instance("tiny").file(paths.INSTANCE_LOCK)):
            os.kill(left, signal.SIGKILL)


def test_second_interrupt_kills() -> None:
    with Background("--until", "exit") as first:
        machine = first.wait_running()
        # a QEMU that hears nothing
        os.kill(machine.pid, signal.SIGSTOP)
        first.signal(signal.SIGINT)
        time.sleep(1.0)
        first.signal(signal.SIGINT)
        time.sleep(0.2)
        code, _, err = first.finish(20.0)
    assert code == 130, err
    assert wait_pid(machine.pid, 1.0)
    assert stored_blocks() > 10_000


def test_ready_never_comes() -> None:
    done = sysqcache(
        *("boot", TINY, "--set", "ready.timeout=15s", "--set", "ready.pattern=never"),
        *("--set", "ready.hint=look here", "--cache", "on"),
        code=15,
    )
    assert "was not ready within 15 s (serial probe)" in done.stderr
    assert "sysqcache: ready" in done.stderr
    # a busy host is told from a guest that hangs
    assert re.search(r"QEMU had [1-9][\d.]* s of the host's processors and waited", done.stderr)
    assert "hint: look here" in done.stderr
    assert "not ready" in report("list")["machines"][0]["error"]
    assert stored_blocks() > 10_000


def test_the_guest_dies_before_it_is_ready() -> None:
    done = sysqcache(
        *("boot", TINY, "--cache", "off", "--set", "reboot=false"),
        *("--set", "cmdline=console=ttyS0 quiet panic=-1 rdinit=/nothing init=/nothing"),
        code=14,
    )
    assert "ended before it was ready (exit code 0)" in done.stderr
    assert "Kernel panic" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_guest_that_powers_off_before_it_is_ready_while_qemu_stays() -> None:
    """Nobody waits for the time-out then."""
    done = sysqcache(
        *("boot", TINY, "--cache", "off", "--set", "reboot=false", "--set", "on_poweroff=hold"),
        *("--set", "cmdline=console=ttyS0 quiet panic=-1 rdinit=/nothing init=/nothing"),
        code=15,
    )
    assert "tiny was not ready (serial probe): tiny stands still: it has powered" in done.stderr


RESET = "echo b > /proc/sysrq-trigger; sleep 600"
OFF = "poweroff -f; sleep 600"


def test_a_guest_that_resets_under_a_task() -> None:
    """Nobody waits for an answer of one that knows nothing of the task any more."""
    done = sysqcache("boot", TINY, "--cache", "off", "--task", RESET, "--timeout", 100, code=17)
    assert f"error: tiny was reset while a command ran in it: {RESET}" in done.stderr
    assert "sysqcache logs tiny" in done.stderr
    assert "Traceback" not in done.stderr
    assert report("list")["machines"][0]["state"] == "stopped"


def test_a_guest_that_resets_before_a_task() -> None:
    """What was ready is not ready any more."""
    slowly = "(sleep 1; echo b > /proc/sysrq-trigger) > /dev/null 2>&1 &"
    arguments = ("--cache", "off", "--task", slowly, "--task", "sleep 600", "--timeout", 100)
    done = sysqcache("boot", TINY, *arguments, code=17)
    assert "tiny was reset while a command ran in it: sleep 600" in done.stderr


def test_a_guest_that_resets_under_exec() -> None:
    boot("--cache", "off", "--detach")
    try:
        done = sysqcache("exec", "tiny", "--timeout", 100, "--", RESET, code=17)
        assert "tiny was reset while a command ran in it" in done.stderr
        log = Instance("tiny").file(paths.INSTANCE_SERIAL_LOG)
        eventually(lambda: log.read_bytes().count(b"sysqcache: ready") == 2)
        assert sysqcache("exec", "tiny", "--", "echo again").stdout == "again\n"
    finally:
        sysqcache("stop", "tiny", "--force")


def test_a_guest_is_stopped_under_exec() -> None:
    """Who waits for an answer leaves QEMU's other sockets to other commands."""
    boot("--cache", "off", "--detach")
    command = [sys.executable, "-m", "sysqcache", "exec", "tiny", "--", "echo be''gun; sleep 600"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as waiting:
        try:
            log = Instance("tiny").file(paths.INSTANCE_SERIAL_LOG)
            eventually(lambda: b"begun" in log.read_bytes())
            assert report("status", "tiny")["qemu_state"] == "running"
        finally:
            end_all()
        _, error = waiting.communicate(timeout=60)
    assert waiting.returncode == 14, error
    assert "QEMU ended" in error


@pytest.mark.parametrize("until", ["ready", "exit"])
def test_a_guest_that_powers_off_under_a_task(until: str) -> None:
    """QEMU ends with it, or stays: with ``--until exit``."""
    arguments = ("--cache", "off", "--until", until, "--task", OFF, "--timeout", 100)
    code = {"ready": 14, "exit": 17}[until]
    done = sysqcache("boot", TINY, *arguments, code=code)
    assert f"error: tiny powered off while a command ran in it: {OFF}" in done.stderr


def test_missing_disk() -> None:
    done = sysqcache("boot", TINY, "--set", "disks=[{file: /no/disk.img}]", code=3)
    assert "no such file: /no/disk.img" in done.stderr


def test_locked_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    persistent = f"disks=[{{file: {disk}, format: raw, mode: persistent}}]"
    boot("--cache", "off", "--detach", "--set", persistent)
    try:
        for mode in ("persistent", "ephemeral"):
            other = persistent.replace("persistent", mode)
            done = sysqcache(
                *("boot", TINY, "--cache", "off", "--set", "name=other", "--set", other), code=18
            )
            assert "used by another machine" in done.stderr
    finally:
        sysqcache("stop", "tiny", "--force")


def test_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        forward = f"network.forwards=[{{host: {port}, guest: 22}}]"
        done = sysqcache("boot", TINY, "--cache", "off", "--set", forward, code=13)
    assert "hint: a forwarded port is in use" in done.stderr


def test_qemu_that_does_not_start() -> None:
    done = sysqcache("boot", TINY, "--set", "cpu=no-such-cpu", code=13)
    assert "unable to find CPU model" in done.stderr
    assert "hint: change cpu:" in done.stderr
    [machine] = report("list")["machines"]
    assert machine["state"] == "stopped"
