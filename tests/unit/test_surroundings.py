# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts that are not as expected: no home, no locks, umasks, clocks that go back, full disks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from storehelp import ingest, make_blocks

from sysqcache.base import files, paths
from sysqcache.libvirt import service
from sysqcache.store.facade import Store

HERE = str(Path(__file__).parent)
COMMAND = f"""
import errno, os, resource, sys
sys.path.insert(0, {HERE!r})
import seccomphelp
from sysqcache.cli import app, list
{{before}}
sys.argv = ["sysqcache", *sys.argv[1:]]
app.main()
"""


def run(before: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process in which ``before`` happened."""
    return subprocess.run(
        [sys.executable, "-c", COMMAND.format(before=before), *arguments],
        env={k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "SYSQCACHE_"))}
        | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become a user that nobody knows")
def test_without_a_home_the_way_out_is_named() -> None:
    # what the commands import is not such a user's to read: asked without one
    asked = """
from sysqcache.base import paths
from sysqcache.cli.errors import report_error
del os.environ["HOME"]
os.setuid(12345)
try:
    paths.state_dir()
except app.SysqcacheError as error:
    sys.exit(report_error(error))
"""
    ended = run(asked)
    assert ended.returncode == 3
    assert "hint: set SYSQCACHE_HOME" in ended.stderr
    assert "12345" in ended.stderr


def test_without_locks_the_way_out_is_named(tmp_path: Path) -> None:
    ended = run("seccomphelp.refuse('flock')", "cache", "rebuild", SYSQCACHE_HOME=str(tmp_path))
    assert ended.returncode == 20
    assert "No locks available" in ended.stderr
    assert "hint: its file system has no locks" in ended.stderr


@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EDQUOT"])
def test_a_disk_that_fails_is_named(tmp_path: Path, error: str) -> None:
    before = f"seccomphelp.refuse('fsync', errno.{error})"
    ended = run(before, "cache", "verify", SYSQCACHE_HOME=str(tmp_path))
    assert ended.returncode == 20
    assert "internal error" not in ended.stderr
    assert "hint: " + ("the disk fails" if error == "EIO" else "free some") in ended.stderr
    assert not list(tmp_path.rglob(f"{files.TEMPORARY}*"))


def test_a_state_directory_that_is_read_only(tmp_path: Path) -> None:
    ended = run("", "cache", "verify", SYSQCACHE_HOME="/proc/self")
    assert ended.returncode == 20
    assert "SYSQCACHE_STORE" in ended.stderr
    assert "internal error" not in ended.stderr


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_modes_are_ours_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    script = f"""
import os, sys
from pathlib import Path
os.umask({umask})
sys.path.insert(0, {HERE!r})
from storehelp import ingest, make_blocks
from sysqcache.base.files import make_directory
from sysqcache.store.facade import Store
root = Path(sys.argv[1])
ingest(Store.open(root / "state" / "store"), make_blocks(1))
make_directory(root / "a" / "b", 0o711)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "home")], check=True)
    found = {p: p.stat().st_mode & 0o777 for p in (tmp_path / "home").rglob("*")}
    store = Store.open(tmp_path / "home" / "state" / "store")
    assert not [path for path, mode in found.items() if mode & 0o022 and path.is_dir()]
    assert found[store.layout.root] == found[store.layout.packs] == 0o700
    assert found[store.layout.root.parent] == 0o700
    assert found[store.boot_set("image", "x86_64")[0]] == 0o644
    assert found[tmp_path / "home" / "a"] == found[tmp_path / "home" / "a" / "b"] == 0o711
    assert ingest(store, make_blocks(1, 2)).blocks_new == 1


def test_commands_make_nothing_that_others_can_write(tmp_path: Path) -> None:
    ended = run("os.umask(0)", "cache", "rebuild", SYSQCACHE_HOME=str(tmp_path / "home"))
    assert ended.returncode == 0, ended.stderr
    found = [path for path in (tmp_path / "home").rglob("*") if path.stat().st_mode & 0o022]
    assert found == []


def test_a_clock_that_was_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(tmp_path / "store")
    old = ingest(store, make_blocks(*range(40)), image="a").packs[0]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 10**6)
    new = ingest(store, make_blocks(*range(100, 140)), image="b").packs[0]
    monkeypatch.undo()
    assert store.boot_set("b", "x86_64") == [old, new]
    store.compact(max_bytes=new.stat().st_size)
    assert store.boot_set("b", "x86_64") == [new]  # the one that was used last


@pytest.mark.parametrize("moment", [-(10**6), 2**33, 2**40])
def test_files_that_are_older_than_time_or_not_made_yet(tmp_path: Path, moment: int) -> None:
    """What a pack's own time is taken for when the metadata are lost."""
    store = Store.open(tmp_path / "store")
    blocks = make_blocks(*range(40))
    pack = ingest(store, blocks).packs[0]
    os.utime(pack, (moment, moment))
    shutil.rmtree(store.layout.meta)
    store.layout.boot_sets.unlink()
    assert store.rebuild().packs == 1
    (row,) = store.packs()
    assert 0 <= row.last_used <= time.time()
    assert store.boot_set("image", "x86_64") == [pack]
    store.export(tmp_path / "bundle")
    assert Store.open(tmp_path / "other").import_bundle(tmp_path / "bundle").blocks_new == 40
    assert len(store.list_modules()) == 1


def test_what_kills_left_in_shared_folders(tmp_path: Path) -> None:
    """Notes, places and pins are written without the store's lock: what is new may still be."""
    store = Store.open(tmp_path / "store")
    store.pin("m", [])
    folders = (store.layout.journals, store.layout.pins)
    for folder in folders:
        for name, age in (("old", 2 * files.STALE_S), ("new", 0)):
            path = folder / f"{files.TEMPORARY}{name}"
            path.touch()
            os.utime(path, (time.time() - age,) * 2)
    ingest(store, make_blocks(1))
    for folder in folders:
        assert [path.name for path in folder.glob(f"{files.TEMPORARY}*")] == [".new-new"]


def test_the_bar_of_a_rebuild_is_true_to_its_end(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    for number in range(3):
        ingest(store, make_blocks(*range(99 * number, 99 * number + 90)), image=f"{number}")
    made = store.layout.root / f"{files.TEMPORARY}meta"
    told: list[tuple[int, int, bool]] = []
    store.rebuild(lambda done, total: told.append((done, total, made.exists())))
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    size = sum(path.stat().st_size for path in store.layout.packs.iterdir())
    assert {total for _, total, _ in told} == {size}
    # until the new metadata have taken the place of the old ones it is not done
    assert [done == size for done, _, _ in told] == [False] * (len(told) - 1) + [True]
    assert not told[-1][2]
    assert len(told) == 3 + 3 + 1


def test_units_with_odd_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "a $HOME of 100%h \"q\" 'r' \\x"
    monkeypatch.setenv(paths.ENV_HOME, str(home))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    lines = dict(line.split("=", 1) for line in service.unit().splitlines() if "=" in line)
    escaped = str(home).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    assert lines["Environment"] == f'"{paths.ENV_HOME}={escaped}"'
    assert lines["ReadWritePaths"].startswith(f'"{escaped}" ')
    doubled = escaped.replace("$", "$$")
    assert lines["ExecStartPre"].startswith(f'+/bin/mkdir -p "{doubled}" ')
