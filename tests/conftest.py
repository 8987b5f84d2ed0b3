# SPDX-License-Identifier: GPL-2.0-or-later
"""What all tests share: the built engine, the built images, a state directory of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sysqcache import paths
from sysqcache.enginebuild.info import Engine, find_engine
from sysqcache.errors import EngineMissing, ImageMissing
from sysqcache.images import catalog
from sysqcache.images.catalog import ImagePaths


def pytest_report_header() -> list[str]:
    """Say what the machine offers, so that skips are no surprise."""
    try:
        engine = f"engine: {find_engine('x86_64').dir.name}"
    except EngineMissing:
        engine = "engine: none"
    built = ", ".join(image.name for image in catalog.list_images() if image.built)
    return [engine, f"images: {built or 'none'}"]


@pytest.fixture(scope="session")
def x86_engine() -> Engine:
    """The engine for x86_64 guests."""
    try:
        return find_engine("x86_64")
    except EngineMissing as error:
        pytest.skip(f"{error.message}: {error.hint}")


@pytest.fixture(scope="session")
def tiny_image() -> ImagePaths:
    """The tiny guest."""
    try:
        return catalog.resolve("tiny-x86_64")
    except ImageMissing as error:
        pytest.skip(f"{error.message}: {error.hint}")


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
