# SPDX-License-Identifier: GPL-2.0-or-later
"""A libvirtd for all tests here, and a tiny domain for each of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemonhelp import Daemon, eventually, missing
from domainhelp import Machine, own_files

from sysqcache.base import paths
from sysqcache.spec.catalog import ImagePaths
from sysqcache.spec.engines import Engine


@pytest.fixture(scope="session")
def daemon(x86_engine: Engine) -> Iterator[Daemon]:
    """libvirtd in a directory that QEMU's user can get to, unlike pytest's own."""
    pytest.importorskip("libvirt")
    why = missing()
    if why:
        pytest.skip(why)
    directory = Path(tempfile.mkdtemp(prefix="sqc-"))
    directory.chmod(0o711)
    found = Daemon(directory, x86_engine.qemu_img)
    try:
        found.start()
        yield found
    finally:
        found.stop()
        shutil.rmtree(directory)


@pytest.fixture
def second(x86_engine: Engine) -> Iterator[Daemon]:
    """Another libvirtd, which takes itself for another host."""
    directory = Path(tempfile.mkdtemp(prefix="sqc-"))
    directory.chmod(0o711)
    other_host = 'host_uuid = "b1a1a3c5-58f4-4c5e-9a0e-0f3b5f6f7a11"\n'
    found = Daemon(directory, x86_engine.qemu_img, other_host)
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
    own_files(directory, tiny_image, x86_engine)
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


@pytest.fixture(scope="session")
def learnt(daemon: Daemon, shared_home: Path, files: Path) -> tuple[Path, dict[str, Any]]:
    """A store after one boot of the tiny domain, and what was said of that run."""
    found = Machine(daemon, shared_home, "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.ENV_HOME, str(shared_home))
        found.define(files)
        found.enable()
        with found.watched() as watching:
            found.start()
            recorded = found.status()["blocks"]["recorded"]
            eventually(lambda: watching.looked_after() > recorded - 1000)
            found.shut_down()
            watching.wait("new blocks")
        last_run = found.status()["last_run"]
        found.sysqcache("disable", "tiny", "--keep-blocks")
        found.remove()
        store = daemon.directory / "learnt"
        found.store.rename(store)
    return store, last_run


@pytest.fixture
def warm(machine: Machine, learnt: tuple[Path, dict[str, Any]]) -> Machine:
    """The domain with the cache on, and a store that knows it."""
    shutil.copytree(learnt[0], machine.store)
    machine.enable()
    return machine


@pytest.fixture
def machine(daemon: Daemon, home: Path, files: Path) -> Iterator[Machine]:
    """A tiny domain, defined and shut off, that runs an emulator of the host's own."""
    found = Machine(daemon, home, "tiny")
    found.define(files)
    yield found
    found.remove()
    assert daemon.alive(), (daemon.directory / "libvirtd.log").read_text()
