# SPDX-License-Identifier: GPL-2.0-or-later
"""A libvirtd for all tests here, and a tiny domain for each of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemonhelp import Daemon, missing
from domainhelp import Machine

from sysqcache import paths
from sysqcache.enginebuild.info import Engine
from sysqcache.images.catalog import ImagePaths


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """libvirtd in a directory that QEMU's user can get to, unlike pytest's own."""
    pytest.importorskip("libvirt")
    why = missing()
    if why:
        pytest.skip(why)
    directory = Path(tempfile.mkdtemp(prefix="sqc-"))
    directory.chmod(0o711)
    found = Daemon(directory)
    try:
        found.start()
        yield found
    finally:
        found.stop()
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def files(daemon: Daemon, tiny_image: ImagePaths, x86_engine: Engine) -> Path:
    """What a domain of the host's own consists of, where QEMU's user can read it."""
    directory = daemon.directory / "files"
    directory.mkdir(mode=0o755)
    assert tiny_image.kernel is not None
    assert tiny_image.initrd is not None
    shutil.copyfile(tiny_image.kernel, directory / "kernel")
    shutil.copyfile(tiny_image.initrd, directory / "initrd")
    shutil.copytree(x86_engine.dir, directory / "own")
    return directory


@pytest.fixture(scope="session")
def shared_home(daemon: Daemon, files: Path) -> Iterator[Path]:
    """A state directory where another domain is enabled already, so that the engine stays.

    libvirt asks each emulator that is new to it for a second or two.
    """
    with pytest.MonkeyPatch.context() as patch:
        directory = new_home(daemon, patch)
        other = Machine(daemon, directory, "other")
        other.define(files)
        other.enable()
        yield directory
        other.remove()
        (directory / "cache").unlink()


def new_home(daemon: Daemon, patch: pytest.MonkeyPatch) -> Path:
    """State of its own, engines and images as they are."""
    cache = paths.cache_dir()
    directory = Path(tempfile.mkdtemp(prefix="h-", dir=daemon.directory))
    directory.chmod(0o711)
    (directory / "cache").symlink_to(cache, target_is_directory=True)
    patch.setenv(paths.ENV_HOME, str(directory))
    patch.delenv(paths.ENV_STORE, raising=False)
    return directory


@pytest.fixture
def fresh_home(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory where nothing is enabled."""
    directory = new_home(daemon, monkeypatch)
    yield directory
    (directory / "cache").unlink()
    shutil.rmtree(directory)


@pytest.fixture
def home(shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shared state directory, in use."""
    monkeypatch.setenv(paths.ENV_HOME, str(shared_home))
    monkeypatch.delenv(paths.ENV_STORE, raising=False)
    return shared_home


@pytest.fixture
def machine(daemon: Daemon, home: Path, files: Path) -> Iterator[Machine]:
    """A tiny domain, defined and shut off, that runs an emulator of the host's own."""
    found = Machine(daemon, home, "tiny")
    found.define(files)
    yield found
    found.remove()
    assert daemon.alive(), (daemon.directory / "libvirtd.log").read_text()
