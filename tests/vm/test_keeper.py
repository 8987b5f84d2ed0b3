# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines whose blocks are kept behind their commands."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machinehelp import NOKASLR, TINY, Background, end_all, eventually, report, sysqcache

from sysqcache.base import files, paths
from sysqcache.machine import keeping
from sysqcache.spec.catalog import ImagePaths
from sysqcache.spec.engines import Engine

BOOT = ("boot", TINY, "--task", "work", "--set", NOKASLR)


@pytest.fixture(autouse=True)
def _machines(x86_engine: Engine, tiny_image: ImagePaths, own_state: Path) -> Iterator[None]:
    yield
    end_all()
    for pid in keepers():
        os.kill(pid, signal.SIGKILL)


def keepers() -> list[int]:
    """Processes that keep blocks of this test's store."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(paths.store_dir()) in line:
            found.append(int(process.name))
    return found


def nothing_is_left() -> bool:
    """No process, lock or file of runs that were kept."""
    left = any((paths.store_dir() / paths.STORE_JOURNALS).iterdir())
    return not (keepers() or left or files.is_locked(paths.store_dir() / paths.STORE_KEEPER))


def waited() -> list[dict[str, Any]]:
    """What keepers have kept, when they have."""
    found = report("cache", "wait", "--timeout", 300)
    assert found["waiting"] == []
    runs: list[dict[str, Any]] = found["runs"]
    assert all(run["warnings"] == [] for run in runs)
    return runs


def test_a_boot_returns_and_its_blocks_are_kept_as_if_it_had_waited() -> None:
    said = sysqcache(*BOOT).stderr
    assert "goes on behind (sysqcache cache wait)" in said
    (run,) = waited()
    eventually(nothing_is_left)
    whose = run["attribution"]
    assert whose["attributed"] / whose["blocks"] > 0.98
    assert run["blocks_new"] > 0.9 * whose["blocks"]
    again = report(*BOOT, "--no-wait")
    assert again["cache"]["keeping"]
    assert again["attribution"]["blocks"] == again["cache"]["blocks_known"] == 0
    assert again["blocks"]["hit_rate"] > 0.97
    assert len(waited()) == 2
    third = report(*BOOT)  # in the foreground
    assert not third["cache"]["keeping"]
    assert third["attribution"]["blocks"] > 0
    assert len(waited()) == 2


def test_boots_that_end_at_once_have_one_keeper() -> None:
    most = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.is_set():
            most = max(most, len(keepers()))

    watching = threading.Thread(target=watch)
    watching.start()
    names = ["one", "two"]
    with (
        Background("--task", "work", "--set", NOKASLR, "--set", "name=one") as one,
        Background("--task", "work", "--set", NOKASLR, "--set", "name=two") as two,
    ):
        assert one.finish(300)[0] == 0
        assert two.finish(300)[0] == 0
    runs = waited()
    ended.set()
    watching.join()
    assert most == 1
    assert sorted(run["machine"] for run in runs) == names
    assert all(run["attribution"]["attributed"] for run in runs)
    eventually(nothing_is_left)


def test_what_a_killed_keeper_left_is_taken_by_the_next_start_that_waits() -> None:
    sysqcache(*BOOT)
    for pid in keepers():
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not keeping.active())
    assert list((paths.store_dir() / paths.STORE_JOURNALS).glob("*.looks"))
    taken = report(*BOOT)
    assert taken["blocks"]["hit_rate"] > 0.97
    assert taken["warnings"] == []
    assert report("cache", "list")["store"]["runs"] == 2
    modules = report("cache", "list", "--kind", "kernel")["modules"]
    assert modules[0]["blocks"] > 10_000  # placed, not kept by content alone
    eventually(nothing_is_left)


def test_a_machine_that_is_stopped() -> None:
    sysqcache("boot", TINY, "--set", NOKASLR, "--detach")
    assert keepers() == []
    sysqcache("stop", "tiny")
    (run,) = waited()
    whose = run["attribution"]
    assert whose["attributed"] / whose["blocks"] > 0.98
    eventually(nothing_is_left)
