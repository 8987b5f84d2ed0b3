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
