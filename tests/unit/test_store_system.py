# SPDX-License-Identifier: GPL-2.0-or-later
"""What the system refuses (descriptors, permissions, reads) is not damage: nothing is set aside."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from storehelp import FINGERPRINT, TEXT, ingest, make_blocks, table_of

from sysqcache.base import files, mapfile, system
from sysqcache.base.errors import FormatError, StoreError
from sysqcache.formats.runfiles import RunFiles
from sysqcache.machine.launch.process import ProcessId
from sysqcache.store.facade import Store
from sysqcache.store.meta import Meta, MetaDamaged
from sysqcache.store.records import PackStatus
from sysqcache.store.writer import write_pack

PACKS = 101

MANY = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)
sys.path.insert(0, sys.argv[3])
from storehelp import ingest, make_blocks
from sysqcache.store.facade import Store
store = Store.open(Path(sys.argv[1]))
assert len(store.boot_set("image0", "x86_64")) == int(sys.argv[4]), store.warnings
assert not store.damage_seen
print(ingest(store, make_blocks(1, 9000), image="image0").blocks_new)
assert store.verify().good
assert store.rebuild().moved == []
store.export(Path(sys.argv[1]).parent / "bundle")
assert store.warnings == [], store.warnings
"""


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Not one file more can be opened by this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "store")
    for number in range(5):
        ingest(store, make_blocks(number, 100 + number), image=f"image{number}")
    return store


def live(store: Store) -> set[str]:
    return {row.sha256 for row in store.packs() if row.live}


def test_many_packs_and_few_descriptors(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    for number in range(PACKS):
        table = table_of(make_blocks(number))
        write_pack(store.layout.packs, FINGERPRINT, TEXT, [table])
    store.rebuild()
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", MANY, str(store.layout.root), "64", here, str(PACKS)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "1\n"), ended.stderr
    assert {row.status for row in store.packs()} <= {PackStatus.LIVE, PackStatus.SUPERSEDED}


def test_without_descriptors_nothing_is_damaged(store: Store) -> None:
    before = live(store)
    with no_descriptors():
        assert store.boot_set("image0", "x86_64") == []
        assert not store.damage_seen
        for action in (store.rebuild, store.verify, store.packs, store.compact):
            with pytest.raises(StoreError, match="Too many open files") as caught:
                action()
            assert "ulimit -n" in caught.value.hint
        with pytest.raises(OSError, match="Too many open files"):
            mapfile.map_private(store.layout.pack(min(before)))
        with pytest.raises(StoreError, match="Too many open files"):
            Meta(store.layout.meta, read_only=True)
    assert any("Too many open files" in line for line in store.warnings)
    assert live(store) == before
    assert store.verify().good
    assert not store.layout.damaged.exists()


def test_a_pack_that_others_could_write_is_refused_and_stays(store: Store) -> None:
    path = store.boot_set("image1", "x86_64")[0]
    path.chmod(0o666)
    before = live(store)
    assert path not in store.boot_set("image1", "x86_64")
    assert not store.damage_seen
    assert "can be written by other users" in store.warnings.pop()
    result = ingest(store, make_blocks(50), image="image1")
    assert any("can be written by other users" in line for line in result.warnings)
    report = store.rebuild()
    assert report.moved == []
    assert path.name[:12] in " ".join(report.refused)
    assert before < live(store)
    (bad,) = [p for p in store.verify().packs if not p.good]
    assert (bad.damaged, bad.status) == (0, "live")
    path.chmod(0o644)
    assert path in store.boot_set("image1", "x86_64")
    assert store.verify().good


def test_compact_leaves_what_nobody_could_look_into(store: Store) -> None:
    path = store.boot_set("image1", "x86_64")[0]
    path.chmod(0o666)
    shutil.rmtree(store.layout.meta)
    store.layout.boot_sets.unlink()
    assert len(store.rebuild().refused) == 1
    assert store.compact().removed == 0
    path.chmod(0o644)
    store.rebuild()
    assert path.stem in live(store)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become somebody else")
def test_a_pack_without_permission_is_not_damaged(store: Store, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)
    path = store.boot_set("image1", "x86_64")[0]
    for file in [store.layout.root, *store.layout.root.rglob("*")]:
        os.chown(file, 12345, 12345)
    path.chmod(0)
    os.seteuid(12345)
    try:
        before = live(store)
        assert len(store.boot_set("image1", "x86_64")) == 4
        assert "Permission denied" in store.warnings.pop()
        result = ingest(store, make_blocks(50), image="image1")
        assert any("Permission denied" in line for line in result.warnings)
        assert store.rebuild().moved == []
        assert before < live(store)
        problems = [p.problem for p in store.verify().packs if not p.good]
        assert len(problems) == 1
        assert "Permission denied" in problems[0]
        path.chmod(0o644)
        assert store.verify().good
    finally:
        os.seteuid(0)


def test_what_can_not_be_read_is_no_signal(tmp_path: Path) -> None:
    """A read error under a mapping would be SIGBUS: it is an error when the file is mapped."""
    path = tmp_path / "file"
    path.write_bytes(bytes(5000))
    path.chmod(0o600)
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(OSError, match="Input/output error") as caught:
        mapfile.map_bytes(fd, 5 * 4096)  # as if its other pages could not be read
    os.close(fd)
    assert caught.value.errno == errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        mapfile.read_private(Path("/proc/self/mem"), 16)


def test_a_small_file_is_read_whole_or_refused_by_its_size(tmp_path: Path) -> None:
    """A note that is cut at its limit would be told as damaged JSON."""
    files_of_a_run = RunFiles(tmp_path / "run.journal")
    files_of_a_run.note.write_bytes(b'{"image_id": "' + bytes(2 << 20))
    files_of_a_run.note.chmod(0o600)
    with pytest.raises(FormatError, match="is too large"):
        files_of_a_run.read_note()
    files_of_a_run.note.write_bytes(b"12345")
    assert mapfile.read_small(files_of_a_run.note, 5) == b"12345"
    with pytest.raises(FormatError, match="is too large"):
        mapfile.read_small(files_of_a_run.note, 4)


def test_a_mapping_keeps_no_descriptor_and_ends_with_its_views(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 64)
    path.chmod(0o600)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    view = mapfile.map_private(path)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    part = view[256:512]
    del view
    assert bytes(part) == bytes(range(256))
    with pytest.raises(TypeError):
        part[0] = 1
    assert str(path) in Path("/proc/self/maps").read_text()
    del part
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_a_link_is_refused_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(FormatError, match="not a regular file"):
        mapfile.open_private(tmp_path / "link")


@pytest.mark.parametrize("number", system.REFUSALS)
def test_rocksdb_is_damaged_by_none_of_these(number: int, tmp_path: Path) -> None:
    from sysqcache.store.meta import _translate

    text = f"IO error: While open a file for random read: x/1.sst: {os.strerror(number)}"
    found = _translate(Exception(text), tmp_path)
    assert isinstance(found, StoreError)
    assert found.hint == system.hint(number)


def test_damage_of_rocksdb_is_damage(tmp_path: Path) -> None:
    from sysqcache.store.meta import _translate

    assert isinstance(_translate(Exception("Corruption: bad block"), tmp_path), MetaDamaged)


def test_without_descriptors_nobody_is_dead(tmp_path: Path) -> None:
    """What can't be asked is no answer: a machine that lives would be started again."""
    own = ProcessId.of(os.getpid())
    assert own is not None
    with files.locked(tmp_path / "lock"):
        assert files.is_locked(tmp_path / "lock")
        with no_descriptors():
            with pytest.raises(OSError, match="Too many open files"):
                files.is_locked(tmp_path / "lock")
            with pytest.raises(OSError, match="Too many open files"):
                own.alive()
    assert own.alive()
    assert not files.is_locked(tmp_path / "none")
