# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts that are short of memory, processes, space or locks: one clear error, nothing lost."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from required import require_mount
from storehelp import ingest, make_blocks, make_run, write_journal

from sysqcache.base import system
from sysqcache.base.errors import StoreError, SysqcacheError
from sysqcache.store import journals
from sysqcache.store.facade import Store
from sysqcache.store.layout import StoreLayout
from sysqcache.store.pack import Pack

HERE = str(Path(__file__).parent)
NO_THREADS = "seccomphelp.refuse('clone3', errno.EAGAIN)"
NO_MEMORY = """
used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
"""
ACT = f"""
import errno, fcntl, resource, sys, time
from pathlib import Path
sys.path.insert(0, {HERE!r})
import seccomphelp
from sysqcache.base.errors import StoreError
from sysqcache.base.types import RunInfo
from sysqcache.formats.runfiles import RunFiles
from sysqcache.machine.cache import Keeper, StartSet
from sysqcache.store.facade import Store

root, run = Path(sys.argv[1]), RunInfo("a-run", "m", "x86_64", "on", 1.0)
files = RunFiles(root / "journals" / "a-run.journal")
"""
KEEPS = """
keeper = Keeper(print, root)
keeper.sweep()
keeper.keep(StartSet(run, "image", files=files))
"""
STORE = """
with Store.open(root) as store:
    for action in (store.rebuild, store.compact, store.list_modules, store.recover):
        try:
            action()
        except StoreError as error:
            print(error.message, error.hint, sep=": ")
"""


def act(store: Store, *lines: str) -> list[str]:
    """What a process says that does so in a place where the system refuses something."""
    command = [sys.executable, "-c", ACT + "\n".join(lines), str(store.layout.root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.splitlines()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A few packs, and a journal that waits."""
    store = Store.open(tmp_path / "store")
    for number in range(3):
        ingest(store, make_blocks(number, 100 + number), image=f"image{number}")
    journal = store.new_journal(image_id="image", run=make_run("a-run"))
    write_journal(journal, make_blocks(*range(500, 520)), start_time=10**9)
    return store


def nothing_lost(store: Store) -> None:
    assert store.verify().good
    assert [result.blocks_new for result in store.recover()] == [20]
    assert store.verify().good
    assert not list(store.layout.root.rglob(".new-*"))


@pytest.mark.parametrize(
    ("limit", "number"), [(NO_THREADS, errno.EAGAIN), (NO_MEMORY, errno.ENOMEM)]
)
def test_threads_and_memory_that_can_not_be_had(store: Store, limit: str, number: int) -> None:
    """RocksDB would end the process, and with it the machine that it looks after."""
    said = act(store, limit, KEEPS)
    assert len(said) == 2
    assert all("are not kept yet" in line and system.hint(number) in line for line in said), said
    said = act(store, limit, STORE)
    assert len(said) == 4
    assert all(system.hint(number) in line for line in said), said
    nothing_lost(store)


def test_a_qemu_that_could_not_start_threads_is_left_alone(store: Store) -> None:
    asked = """
from sysqcache.saved import slots
try:
    slots._require_threads("vm")
except slots.SavedStateError as error:
    print(error.message, error.hint, sep=": ")
"""
    assert act(store, asked) == []
    (said,) = act(store, NO_THREADS, asked)
    assert "runs on" in said
    assert system.hint(errno.EAGAIN) in said


def test_what_python_can_not_get_is_told_in_the_words_of_the_system() -> None:
    told: dict[int, list[Exception]] = {
        errno.ENOMEM: [
            MemoryError(),
            ImportError("x.so: failed to map segment from shared object"),
            OSError(errno.ENOMEM, "x"),
        ],
        errno.EAGAIN: [RuntimeError("can't start new thread")],
    }
    for number, errors in told.items():
        for error in errors:
            found = system.shortage(error)
            assert found is not None
            assert found.errno == number
    for other in (RuntimeError("x"), ImportError("No module named 'x'"), ValueError()):
        assert system.shortage(other) is None


@pytest.mark.parametrize(
    "refused",
    [
        *(f"'flock', errno.{name}" for name in ("ENOLCK", "ENOSYS", "EOPNOTSUPP")),
        "'fcntl', errno.ENOLCK, fcntl.F_SETLK",
    ],
)
def test_a_file_system_without_locks(store: Store, refused: str) -> None:
    said = act(store, f"seccomphelp.refuse({refused})", KEEPS, STORE)
    assert len(said) == 5, said  # who reads needs none
    assert all(system.hint(errno.ENOLCK) in line for line in said), said
    nothing_lost(store)


def test_a_file_system_without_leases(store: Store) -> None:
    """Who writes a journal is found out all the same."""
    refusal = "seccomphelp.refuse('fcntl', errno.EINVAL, fcntl.F_SETLEASE)"
    recover = "print(len(Store.open(root).recover()))"
    with journals.journal_path(store.layout, "a-run").open("ab"):
        assert act(store, refusal, recover) == ["0"]
    assert act(store, refusal, recover) == ["1"]
    assert store.verify().good


def guests(store: Store) -> set[bytes]:
    """The guest bytes of all blocks that the next starts of any image would map."""
    tables = [Pack.open(path).blocks() for path in store.layout.pack_files().values()]
    return {bytes(table.guest_bytes(n)) for table in tables for n in range(len(table))}


WRITERS: dict[str, Callable[[Store], object]] = {
    "ingest": lambda store: store.recover(),
    "rebuild": lambda store: store.rebuild(),
    "compact": lambda store: store.compact(),
    "export": lambda store: store.export(store.layout.root.parent / "bundle.tar"),
    "import": lambda store: store.import_bundle(store.layout.root.parent.parent / "bundle"),
    "pin": lambda store: store.pin("m", ["0" * 64]),
    "note": lambda store: store.new_journal(image_id="image", run=make_run("other")),
    "a new store": lambda store: Store.open(store.layout.root.parent / "new"),
}


@contextlib.contextmanager
def filled(disk: Path, left: int) -> Iterator[None]:
    """A disk with so many bytes left, for a while."""
    file = disk / "fill"
    found = os.statvfs(disk)
    with file.open("wb") as stream:
        stream.write(bytes(found.f_bavail * found.f_frsize - left))
    try:
        yield
    finally:
        file.unlink()


def test_a_full_disk_at_every_write(store: Store, tmp_path: Path) -> None:
    """What a write has no room for is one error that says so; then it is as before."""
    other = Store.open(tmp_path / "other")
    ingest(other, make_blocks(*range(700, 750)))
    other.export(tmp_path / "bundle")
    before, refused = guests(store), dict.fromkeys(WRITERS, 0)
    with require_mount(tmp_path / "disk", "tmpfs", "size=4m") as disk:
        for name, write in WRITERS.items():
            for left in (0, 8, 12, 40, 64, 96):
                again = Store(StoreLayout(disk / "store"))
                shutil.copytree(store.layout.root, again.layout.root)
                with filled(disk, left << 10):
                    try:
                        write(again)
                    except SysqcacheError as error:
                        refused[name] += 1
                        assert "No space left on device" in error.message
                        # who makes room is not told to make room
                        assert (error.hint == system.hint(errno.ENOSPC)) == (name != "compact")
                    assert not list(disk.rglob(".new-*"))
                again.recover()
                assert again.verify().good
                assert before <= guests(again)
                assert len(again.packs()) > 3 or name == "compact"
                assert not again.layout.damaged.exists()
                for path in disk.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert all(refused.values()), refused


def test_a_disk_that_is_full_to_the_last_byte_is_compacted(store: Store, tmp_path: Path) -> None:
    with require_mount(tmp_path / "disk", "tmpfs", "size=8m") as disk:
        needed = Store(StoreLayout(disk / "needed"))
        shutil.copytree(store.layout.root, needed.layout.root)
        for number in range(4):
            ingest(store, make_blocks(*range(1000 * number, 1000 * number + 300)))
        gone = [row for row in store.packs() if not row.live]
        assert gone
        before = store.list_modules()
        again = Store(StoreLayout(disk / "store"))
        shutil.copytree(store.layout.root, again.layout.root)
        with filled(disk, 0):
            report = again.compact()
            assert (report.removed, report.bytes_freed) == (len(gone), sum(r.bytes for r in gone))
            assert again.list_modules() == before
            assert again.verify().good
        with filled(disk, 0):
            # nobody needs to run compact who just did
            with pytest.raises(StoreError, match=r" 0 bytes could be freed") as found:
                needed.compact()
            assert "--max-bytes" in found.value.hint
            held = needed.hold()
            with pytest.raises(StoreError, match="can't be compacted") as found:
                needed.compact(1)
            assert "stop the machines" in found.value.hint
            os.close(held)
            assert len(needed.packs()) == 3
            assert needed.compact(1).removed == 3
            assert needed.packs() == []
        nothing_lost(needed)


def test_on_an_overlay(store: Store, tmp_path: Path) -> None:
    """As in a container: what lies in the image below is copied up when it is written to."""
    with require_mount(tmp_path / "disk", "tmpfs", "size=16m") as disk:
        for name in ("upper", "work"):
            (disk / name).mkdir()
        shutil.copytree(store.layout.root, disk / "lower" / "store")
        options = f"lowerdir={disk}/lower,upperdir={disk}/upper,workdir={disk}/work"
        with require_mount(disk / "merged", "overlay", options) as merged:
            above = Store.open(merged / "store")
            with journals.journal_path(above.layout, "a-run").open("ab"):
                assert above.recover() == []
            nothing_lost(above)
            before = guests(above)
            assert above.rebuild().moved == []
            above.compact()
            assert guests(above) == before
            assert above.verify().good
        assert Store.open(disk / "lower" / "store").stats().packs == 3
