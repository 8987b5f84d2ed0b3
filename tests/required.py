# SPDX-License-Identifier: GPL-2.0-or-later
"""What a test needs that a machine may lack: it is skipped then, with what is to be done."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sysqcache.base.errors import EngineMissing, ImageMissing
from sysqcache.spec import catalog
from sysqcache.spec.catalog import ImagePaths
from sysqcache.spec.engines import Engine, find_engine


def require_engine(target: str) -> Engine:
    """The engine for guests of a target; skips where it is not built."""
    try:
        return find_engine(target)
    except EngineMissing as error:
        pytest.skip(f"{error.message}: {error.hint}")


def require_image(name: str) -> ImagePaths:
    """A built image; skips where it is none."""
    try:
        return catalog.resolve(name)
    except ImageMissing as error:
        pytest.skip(f"{error.message}: {error.hint}")


@contextlib.contextmanager
def require_mount(folder: Path, kind: str, options: str) -> Iterator[Path]:
    """A file system at a folder that is made; skips where the kernel refuses."""
    folder.mkdir()
    command = ["mount", "-t", kind, "-o", options, "none", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"can't mount {kind}: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


_GROUPS = (
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),  # version 1
    ("/sys/fs/cgroup", "memory.max"),
)


@contextlib.contextmanager
def require_memory_group(name: str, size: int) -> Iterator[Path]:
    """The file that takes the numbers of processes that may have so much memory together.

    Skips where no control group can be made.
    """
    parent, limit = next((one for one in _GROUPS if Path(one[0]).is_dir()), _GROUPS[-1])
    group = Path(parent) / name
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        try:
            (group / limit).write_text(str(size))
        except OSError as error:
            pytest.skip(f"memory can't be limited: {error}")
        yield group / "cgroup.procs"
    finally:
        group.rmdir()
