# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian guest, cold, verified and warm: the boots that decide whether the cache is right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machinehelp import TINY, sysqcache

from sysqcache import paths
from sysqcache.enginebuild.info import Engine
from sysqcache.errors import ImageMissing
from sysqcache.images import catalog

pytestmark = [pytest.mark.vm, pytest.mark.slow]

DEBIAN = TINY.with_name("debian12-x86_64.yaml")
WORK = "/usr/local/bin/work"


def boot(store: Path, *arguments: object) -> dict[str, Any]:
    """Boot Debian with a store; the report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.ENV_STORE, str(store))
        done = sysqcache("boot", DEBIAN, "--until", "ready", "--json", *arguments, timeout=550)
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["warnings"] == []
    return report


@pytest.fixture(scope="module")
def home(x86_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state directory of its own, removed afterwards: stores are big."""
    try:
        catalog.resolve("debian12-x86_64")
    except ImageMissing as error:
        pytest.skip(f"{error.message}: {error.hint}")
    home = tmp_path_factory.mktemp("home")
    (home / "cache").symlink_to(paths.cache_dir(), target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.ENV_HOME, str(home))
        yield home
    (home / "cache").unlink()
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def cold(home: Path) -> dict[str, Any]:
    """A first boot with its task; what it recorded is in ``home/cold``."""
    return boot(home / "cold", "--task", WORK)


@pytest.fixture
def store(home: Path, cold: dict[str, Any], tmp_path: Path) -> Iterator[Path]:
    """A copy of the store as the first boot left it."""
    copy = tmp_path / "store"
    shutil.copytree(home / "cold", copy)
    yield copy
    shutil.rmtree(copy)


def check_counters(report: dict[str, Any]) -> None:
    """Every block has one outcome; the guest runs, so one may be on its way."""
    blocks = report["blocks"]
    outcomes = blocks["adopted"] + sum(blocks["misses"].values()) + blocks["verified"]
    assert abs(blocks["requested"] - blocks["adopted"] - blocks["translated"]) <= 1
    assert abs(blocks["requested"] - outcomes) <= 1
    assert sum(blocks["rejected"].values()) == 0


def test_cold(cold: dict[str, Any]) -> None:
    check_counters(cold)
    assert cold["blocks"]["adopted"] == 0
    assert cold["times"]["tasks"][0]["exit"] == 0
    assert cold["cache"]["blocks_new"] >= 200_000
    assert cold["cache"]["blocks_damaged"] == 0


def test_verify_finds_nothing_different(cold: dict[str, Any], store: Path) -> None:
    report = boot(store, "--cache", "verify", "--task", WORK)
    check_counters(report)
    blocks = report["blocks"]
    assert blocks["mismatches"] == 0, blocks["mismatch_log"]
    assert blocks["verified"] >= 200_000
    assert report["times"]["tasks"][0]["stdout"] == cold["times"]["tasks"][0]["stdout"]


def test_the_second_boot_is_warm(cold: dict[str, Any], store: Path) -> None:
    report = boot(store, "--task", WORK)
    check_counters(report)
    assert report["fingerprint"] == cold["fingerprint"]
    assert report["blocks_at_ready"]["hit_rate"] >= 0.85
    assert report["times"]["tasks"][0]["stdout"] == cold["times"]["tasks"][0]["stdout"]
