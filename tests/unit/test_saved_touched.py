# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages of a privately mapped file a process has touched."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from sysqcache.base.files import replace_file
from sysqcache.saved import touched

PAGE = 4096
PAGES = 512


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """A file that begins with a head of 16 pages, like a state file."""
    path = tmp_path / "state"
    path.write_bytes(os.urandom((16 + PAGES) * PAGE))
    return path


def pages(content: bytes) -> tuple[set[int], set[int]]:
    """The pages to read and to write of an encoded list."""
    assert content[:8] == touched.MAGIC
    found: tuple[set[int], set[int]] = set(), set()
    for first, count in np.frombuffer(content[8:], dtype="<u4").reshape(-1, 2).tolist():
        length = count & ~touched.WRITTEN
        assert length > 0
        found[bool(count & touched.WRITTEN)].update(range(first, first + length))
    return found


def test_this_process_itself(memory: Path) -> None:
    """What is read and written here shows up; what is not written is not copied."""
    with memory.open("r+b") as stream:
        view = mmap.mmap(stream.fileno(), PAGES * PAGE, access=mmap.ACCESS_COPY, offset=16 * PAGE)
    with view:
        view.madvise(mmap.MADV_RANDOM)  # nothing around what is read
        for page in (3, 4, 5, 511):
            view[page * PAGE]
        for page in (5, 100, 101):
            view[page * PAGE] ^= 0xFF
        read, written = pages(touched.observe(os.getpid(), memory, 16 * PAGE, PAGES * PAGE))
    assert written == {5, 100, 101}
    assert {3, 4, 511} <= read
    assert not read & written


def test_mapping_that_is_larger_than_the_memory(memory: Path) -> None:
    """Pages before and behind the memory count for nothing."""
    with memory.open("r+b") as stream:
        view = mmap.mmap(stream.fileno(), (16 + PAGES) * PAGE, access=mmap.ACCESS_COPY)
    with view:
        for page in (2, 15, 16, 20, 16 + 99, 16 + 100, 16 + PAGES - 1):
            view[page * PAGE] = 1
        _, written = pages(touched.observe(os.getpid(), memory, 16 * PAGE, 100 * PAGE))
    assert written == {0, 4, 99}


def test_file_that_is_not_mapped(memory: Path) -> None:
    """An empty list, which is still one."""
    assert pages(touched.observe(os.getpid(), memory, 0, PAGE)) == (set(), set())


def test_process_that_is_gone(memory: Path) -> None:
    """Is an OSError, which costs the next resume its list only."""
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
    with pytest.raises(OSError, match=str(child)):
        touched.observe(child, memory, 0, PAGE)


def test_no_more_than_so_much_is_copied() -> None:
    """A long life is no beginning."""
    written = np.ones((touched.MAX_WRITTEN >> 12) + 5, dtype=np.bool_)
    read = np.zeros_like(written)
    assert len(pages(touched.encode(read, written))[1]) == touched.MAX_WRITTEN >> 12


def test_reading_comes_first() -> None:
    """And a page that is written is not read as well."""
    read = np.array([1, 1, 0, 1], dtype=np.bool_)
    written = np.array([0, 1, 1, 0], dtype=np.bool_)
    entries = np.frombuffer(touched.encode(read, written)[8:], dtype="<u4").reshape(-1, 2)
    assert entries.tolist() == [[0, 1], [3, 1], [1, 2 | touched.WRITTEN]]


def test_write_leaves_one_file(tmp_path: Path) -> None:
    """That others can't change, or the engine would refuse it."""
    target = tmp_path / "touched"
    for content in (b"a", b"b"):
        replace_file(target, content)
    assert target.read_bytes() == b"b"
    assert target.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == [target]
