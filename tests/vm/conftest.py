# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian guest's first boot, shared by all tests of what comes after it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from debianhelp import WORK, boot, require_image

from sysqcache import paths
from sysqcache.enginebuild.info import Engine


@pytest.fixture(scope="session")
def debian_home(x86_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state directory of its own, removed afterwards: stores are big."""
    require_image("debian12-x86_64")
    home = tmp_path_factory.mktemp("home")
    (home / "cache").symlink_to(paths.cache_dir(), target_is_directory=True)
    yield home
    (home / "cache").unlink()
    shutil.rmtree(home)


@pytest.fixture
def home(debian_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``debian_home``, in use."""
    monkeypatch.setenv(paths.ENV_HOME, str(debian_home))
    return debian_home


@pytest.fixture(scope="session")
def cold(debian_home: Path) -> dict[str, Any]:
    """A first boot with its task; what it recorded is in ``debian_home/cold``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.ENV_HOME, str(debian_home))
        return boot(debian_home / "cold", "--task", WORK)


@pytest.fixture
def store(home: Path, cold: dict[str, Any], tmp_path: Path) -> Iterator[Path]:
    """A copy of the store as the first boot left it."""
    copy = tmp_path / "store"
    shutil.copytree(home / "cold", copy)
    yield copy
    shutil.rmtree(copy)
