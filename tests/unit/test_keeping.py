# SPDX-License-Identifier: GPL-2.0-or-later
"""Keepers: real processes on real stores, one at a time, killed whenever it may be."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from storehelp import make_blocks, make_run, write_journal

from sysqcache.base import files, paths
from sysqcache.base.errors import StoreBusy
from sysqcache.formats.runfiles import RunFiles
from sysqcache.machine import keeping
from sysqcache.store.facade import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of the test's own; no keeper of it is left."""
    store = Store.open(tmp_path / "store")
    yield store
    for pid in keepers(store):
        os.kill(pid, signal.SIGKILL)


def leave_run(store: Store, name: str, first: int, count: int = 20) -> RunFiles:
    """A run that has ended and that nobody has kept."""
    journal = store.new_journal(image_id="image", run=make_run(name))
    write_journal(journal, make_blocks(*range(first, first + count)), start_time=first + 1)
    return RunFiles(journal)


def keepers(store: Store) -> list[int]:
    """Processes of keepers of a store."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().split(b"\0")
            if os.fsencode(store.layout.root) in line and (process / "exe").exists():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def blocks(store: Store) -> int:
    return sum(row.blocks for row in store.packs() if row.live)


def nothing_is_left(store: Store) -> bool:
    """Neither a process, nor a lock, nor a file of a run."""
    deadline = time.monotonic() + 10
    while keepers(store) and time.monotonic() < deadline:
        time.sleep(0.01)  # it has let go of the lock, and ends
    lock = store.layout.root / paths.STORE_KEEPER
    names = [path.name for path in store.layout.root.rglob(f"{files.TEMPORARY}*")]
    return not (
        keepers(store) or files.is_locked(lock) or names or list(store.layout.journals.iterdir())
    )


def test_a_run_is_kept_behind_its_command(store: Store) -> None:
    leave_run(store, "run", 0)
    assert keeping.start(store.layout.root)
    assert keeping.active(store.layout.root)  # from the first moment on
    assert keeping.wait(store.layout.root, 60) == []
    assert blocks(store) == 20
    assert nothing_is_left(store)
    (told,) = keeping.kept(store.layout.root)
    assert (told["run"], told["blocks_new"], told["warnings"]) == ("run", 20, [])
    assert told["cpu_s"] > 0


def test_waiting_starts_a_keeper_if_there_is_none(store: Store) -> None:
    assert keeping.wait(store.layout.root, 0) == []
    leave_run(store, "run", 0)
    assert keeping.wait(store.layout.root, 60) == []
    leave_run(store, "again", 20)
    assert keeping.catch_up(store.layout.root) == 1
    assert keeping.wait(store.layout.root, 60) == []
    assert blocks(store) == 40


def test_a_keeper_that_does_not_end_is_not_waited_for_longer_than_asked(store: Store) -> None:
    with files.locked(store.layout.root / paths.STORE_KEEPER):
        assert keeping.start(store.layout.root)  # there is one
        assert keepers(store) == []
        with pytest.raises(StoreBusy, match=r"after 0\.1 s"):
            keeping.wait(store.layout.root, 0.1)


def test_there_is_one_at_a_time(store: Store) -> None:
    """Commands that end at once start one keeper; it takes what comes while it works."""
    most = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.is_set():
            most = max(most, len(keepers(store)))

    watching = threading.Thread(target=watch)
    watching.start()
    for number in range(6):
        leave_run(store, f"run{number}", 1000 * number, 200)
        for _ in range(2):
            threading.Thread(target=keeping.start, args=[store.layout.root]).start()
        time.sleep(0.2)
    assert keeping.wait(store.layout.root, 120) == []
    ended.set()
    watching.join()
    assert most == 1
    assert blocks(store) == 1200
    assert store.stats().runs == 6
    assert nothing_is_left(store)


def test_one_that_is_killed_at_any_moment_leaves_what_the_next_one_keeps(store: Store) -> None:
    rng = random.Random(20)
    left = 0
    for number in range(8):
        leave_run(store, f"run{number}", 5000 * number, 4000)
        assert keeping.start(store.layout.root)
        time.sleep(rng.uniform(0.0, 1.5))
        for pid in keepers(store):
            os.kill(pid, signal.SIGKILL)
        while keeping.active(store.layout.root):
            time.sleep(0.01)  # its memory goes before its lock does
        assert store.verify().good
        left += len(store.waiting())
    assert left  # some were killed in time
    assert keeping.wait(store.layout.root, 120) == []
    assert store.verify().good
    assert blocks(store) == 32_000
    assert store.stats().runs == 8
    assert nothing_is_left(store)


def test_a_run_that_somebody_has_claimed_is_left_to_him(store: Store) -> None:
    run = leave_run(store, "run", 0)
    claimed = run.claim()
    assert claimed is not None
    assert store.waiting() == {run.path.name: True}
    assert store.recover() == []
    assert keeping.catch_up(store.layout.root) == 0
    assert keepers(store) == []
    with pytest.raises(StoreBusy):
        keeping.wait(store.layout.root, 0.2)
    os.close(claimed)
    assert keeping.wait(store.layout.root, 60) == []
    assert blocks(store) == 20


def test_what_can_not_be_kept_is_named_once_and_the_rest_is_kept(store: Store) -> None:
    leave_run(store, "good", 0)
    bad = leave_run(store, "bad", 1000)
    bad.note.chmod(0o000)
    if os.access(bad.note, os.R_OK):  # root may read everything
        bad.note.write_text("no note")
        bad.note.chmod(0o600)
    assert keeping.wait(store.layout.root, 60) == ["bad.journal"]
    assert blocks(store) == 20
    bad.remove()


def test_a_keeper_does_not_import_from_where_it_was_called(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    leave_run(store, "run", 0)
    assert keeping.wait(store.layout.root, 60) == []
    assert blocks(store) == 20


def test_a_keeper_steps_back(store: Store) -> None:
    """It lives as long as the store's lock is held by another, so that it can be looked at."""
    leave_run(store, "run", 0)
    with files.locked(store.layout.lock):
        assert keeping.start(store.layout.root)
        deadline = time.monotonic() + 60
        while not keepers(store):
            assert time.monotonic() < deadline
        (pid,) = keepers(store)
        while os.getpriority(os.PRIO_PROCESS, pid) != 19:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert os.getsid(pid) == pid
        assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    assert keeping.wait(store.layout.root, 60) == []


def test_the_command_that_waits(store: Store) -> None:
    leave_run(store, "run", 0)
    environment = {**os.environ, paths.ENV_STORE: str(store.layout.root)}

    def called(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sysqcache", "cache", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    done = called("wait")
    assert done.stdout.startswith("m: kept 20 new blocks, 0 were known, in ")
    value = json.loads(called("wait", "--json").stdout)
    assert value["waiting"] == []
    assert [run["run"] for run in value["runs"]] == ["run"]
    with files.locked(store.layout.root / paths.STORE_KEEPER):
        assert called("wait", "--timeout", "0.1").returncode == StoreBusy.exit_code


def test_who_looks_at_the_store_sees_what_a_keeper_makes_of_it(store: Store) -> None:
    leave_run(store, "run", 0)
    said: list[str] = []
    keeping.settle(store.layout.root, said.append)
    assert said == []
    assert keeping.start(store.layout.root)
    keeping.settle(store.layout.root, said.append)
    assert said == ["waiting for the keeper"]
    assert blocks(store) == 20
