# SPDX-License-Identifier: GPL-2.0-or-later
"""Files are replaced whole, and locks end with their holders."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sysqcache.base import files

HOLD = """
import sys
from pathlib import Path
from sysqcache.base import files
with files.locked(Path(sys.argv[1])):
    print(flush=True)
    sys.stdin.read()
"""


@contextmanager
def little_room(size: int) -> Iterator[None]:
    """No file can become larger than ``size`` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("synced", [False, True])
def test_a_file_is_replaced(tmp_path: Path, synced: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    files.replace_file(path, b"new", synced=synced)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("synced", [False, True])
def test_a_full_disk_leaves_the_old_file_alone(tmp_path: Path, synced: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with little_room(1000), pytest.raises(OSError, match="large"):
        files.replace_file(path, bytes(100_000), synced=synced)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_body_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not files.is_locked(lock)
    with files.locked(lock) as fd:
        assert fd is not None
        assert files.is_locked(lock)
        with files.locked(lock) as second:
            assert second is None
        with files.locked(lock, 0.05) as patient:
            assert patient is None
    assert not files.is_locked(lock)
    assert lock.exists()


def test_a_copy_of_the_descriptor_holds_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with files.locked(lock) as fd:
        assert fd is not None
        copy = os.dup(fd)
    assert files.is_locked(lock)
    os.close(copy)
    assert not files.is_locked(lock)


def test_shared_locks_keep_out_who_wants_it_alone(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    first, second = files.share(lock), files.share(lock)
    os.close(first)
    with files.locked(lock) as alone:
        assert alone is None
    os.close(second)
    with files.locked(lock) as alone:
        assert alone is not None


def test_the_end_of_a_process_frees_its_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert files.is_locked(lock)
        holder.kill()
        holder.wait()
        with files.locked(lock, None) as fd:
            assert fd is not None


def test_a_link_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"), files.locked(tmp_path / "lock"):
        pass
