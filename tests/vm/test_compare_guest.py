# SPDX-License-Identifier: GPL-2.0-or-later
"""A comparison of the tiny guest, and that it tells when a resume is none."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from machinehelp import TINY, eventually, report, sysqcache

from sysqcache.base import paths
from sysqcache.base.errors import SavedStateError
from sysqcache.compare import machines, nonce, runner
from sysqcache.compare.ways import Way
from sysqcache.machine.instances import list_instances
from sysqcache.spec import resolve
from sysqcache.spec.engines import find_engine

pytestmark = [
    pytest.mark.vm,
    pytest.mark.slow,
    pytest.mark.usefixtures("x86_engine", "tiny_image", "own_state"),
]

TASK = "for i in 1 2 3; do ls -lR /bin | sort | md5sum; done"
POSSIBLE = [str(way) for way in Way if way.group != "internal"]


def left_behind() -> list[Path]:
    return [*paths.state_dir().glob("compare-*"), *paths.instances_dir().glob("*")]


def test_every_way_of_the_tiny_guest(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    found = report("compare", TINY, "--runs", 1, "--task", TASK, "--html", page)
    assert found["machine"] == "tiny"
    assert found["runs"] == 1
    assert found["task"] == TASK
    assert found["failed"] == {}
    assert set(found["left_out"]) == {"internal", "internal+warm"}
    assert "no disk" in found["left_out"]["internal"]
    ways: dict[str, dict[str, Any]] = {way["way"]: way for way in found["ways"]}
    assert list(ways) == POSSIBLE
    for name, way in ways.items():
        check_way(name, way)
    assert found["store_bytes"] > 1 << 20
    ratios = found["ratios"]
    assert "template+warm first/second task" in ratios
    # loading memory takes a small part of a boot, whatever else runs here
    assert ways["file"]["ready_s"]["median"] < 0.7 * ways["cold"]["ready_s"]["median"]
    assert page.read_text(encoding="utf-8").count("<figure>") >= 3
    assert left_behind() == []


def check_way(name: str, way: dict[str, Any]) -> None:
    """Figures that any run has, and those that only this way can have."""
    for key in ("ready_s", "first_task_s", "second_task_s", "host_cpu_s"):
        assert 0 < way[key]["min"] <= way[key]["median"] <= way[key]["max"], (name, key)
    assert way["command_s"]["median"] >= way["ready_s"]["median"]
    assert way["peak_rss_bytes"] > 32 << 20
    assert (way["hit_rate"] > 0.8) is ("warm" in name), name
    assert (way["disk_bytes"] > 8 << 20) is (name not in ("cold", "warm")), name
    assert (way["suspend_s"] is None) is (name in ("cold", "warm"))


def test_with_a_disk_internal_snapshots_are_compared_too(tmp_path: Path) -> None:
    """A persistent disk, that nothing may be written to."""
    disk = tmp_path / "scratch.qcow2"
    command = [find_engine("x86_64").qemu_img, "create", "-q", "-f", "qcow2", disk, "1G"]
    subprocess.run([str(word) for word in command], check=True)
    before = (disk.read_bytes(), disk.stat().st_mtime_ns)
    option = f"disks=[{{file: {disk}, mode: persistent}}]"
    ways = "template,internal,internal+warm"
    found = report("compare", TINY, "--runs", 1, "--ways", ways, "--set", option)
    assert found["left_out"] == found["failed"] == {}
    assert [way["way"] for way in found["ways"]] == ["internal", "internal+warm", "template"]
    for way in found["ways"]:
        check_way(way["way"], way)
    assert {"template/internal ready", "internal+warm/internal first task"} <= set(found["ratios"])
    assert any("persistent disks" in note for note in found["notes"])
    assert (disk.read_bytes(), disk.stat().st_mtime_ns) == before


def test_a_resume_that_is_a_boot_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines.Machines, "_start", boot_instead)
    request = runner.Request(resolve.load(TINY), (Way.FILE,), runs=1)
    with pytest.raises(SavedStateError, match="does not know"):
        runner.compare(request)
    assert left_behind() == []


def boot_instead(self: machines.Machines, way: Way, mode: Any, observer: Any) -> Any:
    """A resume that cheats."""
    return _START(self, Way.COLD, mode, observer)


_START: Callable[..., Any] = machines.Machines._start


def test_a_wrong_value_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = nonce.store_command("another")
    monkeypatch.setattr(nonce, "store_command", lambda _: stored)
    request = runner.Request(resolve.load(TINY), (Way.TEMPLATE,), runs=1)
    with pytest.raises(SavedStateError, match="another value"):
        runner.compare(request)


def test_a_task_that_fails_ends_it() -> None:
    done = sysqcache("compare", TINY, "--runs", 1, "--task", "echo no; exit 3", code=17)
    assert "exit status 3" in done.stderr
    assert left_behind() == []


def start(*options: str, out: int) -> subprocess.Popen[str]:
    """A comparison that runs while the test does other things."""
    return subprocess.Popen(
        [sys.executable, "-m", "sysqcache", "compare", str(TINY), *options],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=out,
        text=True,
    )


def test_an_interrupted_comparison_reports_what_it_has() -> None:
    process = start("--json", "--runs", "50", "--ways", "cold,file", out=subprocess.PIPE)
    assert process.stderr is not None
    with process:
        lines: list[str] = []
        while not any("round 2" in line for line in lines):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    found = json.loads(out)
    assert found["interrupted"]
    assert {way["way"] for way in found["ways"]} == {"cold", "file"}
    assert left_behind() == []


def running_below(directory: Path) -> list[str]:
    """Processes that run in a directory, also in one that was removed."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str((process / "cwd").readlink()).startswith(f"{directory}/"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def test_what_a_killed_comparison_ran_is_ended_by_the_next(own_state: Path) -> None:
    """Also a QEMU that was just started, whose number is not written down yet."""
    process = start("--ways", "file", out=subprocess.DEVNULL)
    eventually(lambda: bool(running_below(own_state)), step=0.0)
    process.kill()
    process.wait()
    assert len(left_behind()) == 1
    done = sysqcache("compare", TINY, "--ways", "file", "--runs", 1)
    assert "file" in done.stdout
    assert left_behind() == []
    assert list_instances() == []
    assert running_below(own_state) == []
