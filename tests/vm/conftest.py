# SPDX-License-Identifier: GPL-2.0-or-later
"""First boots, each made once for all tests of what comes after it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import workers
from debianhelp import DEBIAN, OTHER, QUESTIONS, WORK, boot, told
from enginehelp import Recorded
from machinehelp import NOKASLR
from machinehelp import boot as boot_tiny
from required import require_image

from sysqcache.base import paths
from sysqcache.spec.catalog import ImagePaths
from sysqcache.spec.engines import Engine


def fresh_home(directory: Path) -> Path:
    """State of its own, engines and images as they are."""
    directory.mkdir()
    (directory / "cache").symlink_to(paths.cache_dir(), target_is_directory=True)
    return directory


def first_boot(folder: Path, config: Path, *tasks: str) -> None:
    """Boot a Debian guest with an empty store; that and the report stay in ``folder``."""
    arguments = [part for task in tasks for part in ("--task", task)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.ENV_HOME, str(fresh_home(folder / "home")))
        report = boot(folder / "store", *arguments, config=config)
    (folder / "report").write_text(json.dumps(report))


@pytest.fixture(scope="session")
def debian_cold(x86_engine: Engine, shared: Path) -> Path:
    """A Debian guest's first boot with its task: its ``store`` and the ``report``."""
    require_image(DEBIAN.stem)
    return workers.once(shared / "debian", lambda to: first_boot(to, DEBIAN, WORK))


@pytest.fixture(scope="session")
def other_cold(x86_engine: Engine, shared: Path) -> Path:
    """As :func:`debian_cold`, of the other Debian guest, which then says what it is."""
    require_image(OTHER.stem)
    return workers.once(shared / "other", lambda to: first_boot(to, OTHER, WORK, *QUESTIONS))


@pytest.fixture(scope="session")
def recorded(x86_engine: Engine, tiny_image: ImagePaths, shared: Path) -> Recorded:
    """The tiny guest's first run."""
    return Recorded(workers.once(shared / "tiny", lambda to: Recorded.make(to, (NOKASLR,))))


@pytest.fixture(scope="session")
def recorded_by_two(x86_engine: Engine, tiny_image: ImagePaths, shared: Path) -> Recorded:
    """The tiny guest's first run with two vCPUs."""
    sets = (NOKASLR, "vcpus=2")
    return Recorded(workers.once(shared / "tiny-2", lambda to: Recorded.make(to, sets)))


@pytest.fixture(scope="session")
def tiny_cold(x86_engine: Engine, tiny_image: ImagePaths, shared: Path) -> Path:
    """As :func:`debian_cold`, of the tiny guest."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(paths.ENV_HOME, str(fresh_home(folder / "home")))
            patch.setenv(paths.ENV_STORE, str(folder / "store"))
            report = boot_tiny("--task", "work", "--set", NOKASLR)
        (folder / "report").write_text(json.dumps(report))

    return workers.once(shared / "tiny-cold", make)


@pytest.fixture
def tiny_store(own_state: Path, tiny_cold: Path) -> dict[str, Any]:
    """The machine's own store is as after a first boot; what was said of that."""
    shutil.copytree(tiny_cold / "store", paths.store_dir())
    return told(tiny_cold)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory of the test's own, in use."""
    home = fresh_home(tmp_path / "home")
    monkeypatch.setenv(paths.ENV_HOME, str(home))
    return home


@pytest.fixture
def cold(debian_cold: Path) -> dict[str, Any]:
    """What was said of the first boot."""
    return told(debian_cold)


@pytest.fixture
def store(home: Path, debian_cold: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the store as the first boot left it."""
    copy = tmp_path / "store"
    shutil.copytree(debian_cold / "store", copy)
    yield copy
    shutil.rmtree(copy)
