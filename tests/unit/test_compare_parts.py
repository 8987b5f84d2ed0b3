# SPDX-License-Identifier: GPL-2.0-or-later
"""Comparisons: the value in the guest's memory, the observer, the directory of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sysqcache.base import paths
from sysqcache.base.errors import GuestCommandError, SavedStateError
from sysqcache.compare import nonce
from sysqcache.compare.observe import Observer, peak_rss
from sysqcache.compare.ways import Way
from sysqcache.compare.workshop import sweep, workshop
from sysqcache.machine.guest.result import TaskResult
from sysqcache.machine.progress import Event, Launched, PhaseBegan, TaskFinished


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)


def test_the_value_is_written_and_read_by_a_shell(tmp_path: Path) -> None:
    """On this host, whose /dev/shm is in memory as a guest's is."""
    value = nonce.fresh()
    assert value != nonce.fresh()
    file = Path("/dev/shm") / "sysqcache-nonce"
    try:
        done = shell(nonce.store_command(value))
        if done.returncode:
            pytest.skip(f"no file system in memory here: {done.stderr}")
        assert file.stat().st_mode & 0o077 == 0
        assert shell(nonce.READ).stdout.strip() == value
    finally:
        file.unlink(missing_ok=True)
    after = shell(nonce.READ)
    assert (after.stdout, after.returncode) == ("", 0)


def test_no_memory_no_value() -> None:
    command = nonce.store_command("x").replace("/proc/mounts", "/dev/null")
    assert shell(command).returncode == 1


@pytest.mark.parametrize("way", [Way.INTERNAL, Way.FILE_WARM, Way.TEMPLATE])
def test_a_resumed_guest_knows_the_value(way: Way) -> None:
    nonce.check(way, "abc\n", "abc")
    with pytest.raises(SavedStateError, match="does not know"):
        nonce.check(way, "\n", "abc")
    with pytest.raises(SavedStateError, match="another value"):
        nonce.check(way, "abd\n", "abc")


def test_a_booted_guest_knows_none() -> None:
    nonce.check(Way.COLD, "", "")
    with pytest.raises(SavedStateError, match="was booted"):
        nonce.check(Way.WARM, "abc", "")


def test_the_observer_times_from_the_start_of_qemu() -> None:
    seen: list[Event] = []
    observer = Observer(2, seen.append)
    observer(PhaseBegan("booting"))
    observer(Launched(os.getpid(), "qemu"))
    time.sleep(0.05)
    observer(TaskFinished(TaskResult("true", 0.01, 0, "", "")))
    assert 0.25 <= observer.answered_after(0.2) < 1.0
    assert observer.peak_rss_bytes == 0
    observer(TaskFinished(TaskResult("work", 0.5, 3, "out", "err")))
    assert observer.peak_rss_bytes > 1 << 20
    assert observer.host_cpu_s > 0
    assert len(seen) == 4
    with pytest.raises(GuestCommandError, match=r"exit status 3.*: work") as error:
        observer.require_success()
    assert error.value.detail == "err"


def test_peak_memory_is_a_peak() -> None:
    code = "x = b'1' * (64 << 20); del x; print('ok', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 64 << 20 < peak_rss(process.pid) < 256 << 20
        process.communicate(b"\n")
    assert peak_rss(process.pid) == 0


def test_the_workshop_is_apart_and_goes(own_state: Path, tmp_path: Path) -> None:
    before, cache = paths.state_dir(), paths.cache_dir().resolve()
    with workshop(tmp_path) as root:
        assert root.parent == before
        assert paths.state_dir().is_relative_to(root)
        assert paths.store_dir().is_relative_to(root)
        assert paths.cache_dir().resolve() == cache
        assert os.environ["SYSQCACHE_ENGINE"] == str(tmp_path)
        (paths.instances_dir() / "vm").mkdir(parents=True)
        assert sweep(before) == []  # it is in use
    assert not root.exists()
    assert cache.exists()
    assert paths.state_dir() == before
    assert "SYSQCACHE_ENGINE" not in os.environ


def test_what_a_kill_left_is_removed(own_state: Path, tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal\n"
        "from sysqcache.compare.workshop import workshop\n"
        "with workshop(pathlib.Path('/nowhere')) as root:\n"
        "    print(root, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    left = Path(done.stdout.strip())
    assert (left / "cache").is_dir()
    with workshop(tmp_path):
        assert not left.exists()
    assert (own_state / "cache").exists()
