# SPDX-License-Identifier: GPL-2.0-or-later
"""What all tests share: the built engine, the built images, a state directory of their own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import workers
from hypothesis import settings
from required import require_engine, require_image

from sysqcache.base import paths
from sysqcache.base.errors import EngineMissing
from sysqcache.spec import catalog
from sysqcache.spec.catalog import ImagePaths
from sysqcache.spec.engines import Engine, find_engine

settings.register_profile("any-host", deadline=None)  # no test measures time
settings.load_profile("any-host")


def pytest_report_header() -> list[str]:
    """Say what the machine offers, so that skips are no surprise."""
    try:
        engine = f"engine: {find_engine('x86_64').dir.name}"
    except EngineMissing:
        engine = "engine: none"
    built = ", ".join(image.name for image in catalog.list_images() if image.built)
    return [engine, f"images: {built or 'none'}"]


_SHARED = pytest.StashKey[Path]()
"""A folder that all workers of a run have in common; it goes with the run."""


def in_worker(config: pytest.Config) -> bool:
    """True in a process that runs a part of the tests (``pytest -n``)."""
    return hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    """Find the folder that is common to all workers, or make it."""
    given: dict[str, str] = getattr(config, "workerinput", {})
    folder = given.get("shared") or tempfile.mkdtemp(prefix="sysqcache-tests-")
    config.stash[_SHARED] = Path(folder)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker where the folder is."""
    node.workerinput["shared"] = str(node.config.stash[_SHARED])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the folder: stores are big."""
    if not in_worker(config):
        shutil.rmtree(config.stash[_SHARED], ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files first; without workers the order is pytest's own."""
    if in_worker(config):
        workers.order(items)


@pytest.fixture(scope="session")
def shared(pytestconfig: pytest.Config) -> Path:
    """A folder for :func:`workers.once`."""
    return pytestconfig.stash[_SHARED]


@pytest.fixture(scope="session")
def x86_engine() -> Engine:
    """The engine for x86_64 guests."""
    return require_engine("x86_64")


@pytest.fixture(scope="session")
def tiny_image() -> ImagePaths:
    """The tiny guest."""
    return require_image("tiny-x86_64")


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """State and store in a fresh folder, engines and images as they are."""
    cache = paths.cache_dir()
    home = tmp_path / "home"
    home.mkdir()
    (home / "cache").symlink_to(cache, target_is_directory=True)
    monkeypatch.setenv(paths.ENV_HOME, str(home))
    monkeypatch.delenv(paths.ENV_STORE, raising=False)
    yield home
