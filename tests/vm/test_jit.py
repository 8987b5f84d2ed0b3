# SPDX-License-Identifier: GPL-2.0-or-later
"""LuaJIT in a Debian guest: right results in every mode, and no harm to the rest."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machinehelp import TINY, sysqcache
from required import require_image

from bench.tinyguest import PROGRAMS
from sysqcache.base import paths
from sysqcache.spec.engines import Engine

pytestmark = [pytest.mark.vm, pytest.mark.slow]

IMAGE = "debian12-x86_64-other"
WORK = "/usr/local/bin/work"
SCRIPT = base64.b64encode((PROGRAMS / "jit.lua").read_bytes()).decode()
PROGRAM = (
    f"echo {SCRIPT} | base64 -d > /tmp/jit.lua;"
    "luajit /tmp/jit.lua && luajit -joff /tmp/jit.lua &&"
    " luajit -jv /tmp/jit.lua 2>&1 | grep -c ^.TRACE"
)


def python_says() -> list[str]:
    """The same work without LuaJIT, as far as it is quickly done."""
    x, hits = 1, 0
    for _ in range(200000):
        x = x * 16807 % 2147483647
        hits += x % 3 == 0
    words = {f"{i * 2654435761 % 65521:x}" for i in range(1, 20001)}
    total = 0
    for number in range(1, 401):
        s = 0
        for i in range(1, 301):
            s = (s * (number % 97 + 2) + i * number * 7919) % 1000003
        total = (total * 31 + s) % 1000000007
    position, speed = 1.0, 0.0
    for _ in range(200000):
        speed = speed - position * 0.001
        position = position + speed * 0.001
    return ["3245", f"{hits}/{x}", str(len(words)), f"{position:.9f}", str(total)]


@pytest.fixture(scope="module")
def home(x86_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state directory of its own, removed afterwards: stores are big."""
    require_image(IMAGE)
    home = tmp_path_factory.mktemp("home")
    (home / "cache").symlink_to(paths.cache_dir(), target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.ENV_HOME, str(home))
        yield home
    (home / "cache").unlink()
    shutil.rmtree(home)


def boot(store: Path, mode: str, *tasks: str) -> dict[str, Any]:
    """Boot with a store; the report."""
    arguments = [part for task in tasks for part in ("--task", task)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.ENV_STORE, str(store))
        done = sysqcache(
            "boot", TINY.with_name(f"{IMAGE}.yaml"), "--until", "ready", "--json",
            "--cache", mode, *arguments, timeout=550,
        )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    assert all(task["exit"] == 0 for task in found["times"]["tasks"]), found["times"]["tasks"]
    return found


@pytest.fixture(scope="module")
def cold(home: Path) -> dict[str, Any]:
    """A first boot with the program; its store is ``home/with``."""
    return boot(home / "with", "on", PROGRAM, WORK)


def check(output: str) -> None:
    """The program printed what it must, twice, and did compile."""
    compiled, interpreted, traces = output.splitlines()
    assert compiled.split() == python_says()
    assert interpreted == compiled
    assert int(traces) >= 400


@pytest.fixture(scope="module")
def warm(home: Path, cold: dict[str, Any]) -> dict[str, Any]:
    """A second boot with the program."""
    return boot(shutil.copytree(home / "with", home / "warm"), "on", PROGRAM, WORK)


def test_cold_run(cold: dict[str, Any]) -> None:
    check(cold["times"]["tasks"][0]["stdout"])
    assert cold["blocks"]["adopted"] == 0
    assert cold["blocks"]["dead"] > 0


def test_verified_run(home: Path, cold: dict[str, Any]) -> None:
    store = shutil.copytree(home / "with", home / "verify")
    booted = boot(store, "verify", PROGRAM, WORK)
    check(booted["times"]["tasks"][0]["stdout"])
    blocks = booted["blocks"]
    assert blocks["mismatches"] == 0, blocks["mismatch_log"]
    assert blocks["verified"] > 100_000


def test_warm_run(warm: dict[str, Any]) -> None:
    check(warm["times"]["tasks"][0]["stdout"])
    assert warm["blocks"]["dead"] > 0
    assert warm["blocks_at_ready"]["hit_rate"] >= 0.9


def test_the_rest_of_the_machine_is_as_warm(warm: dict[str, Any]) -> None:
    """What the program makes is new each time, but drives nothing out of the cache.

    Machine code with addresses of this run in it is in no cache, and is no loss that a
    cache could be blamed for; a block that is kept and was not found would be.
    """
    kept = warm["cache"]["pack_blocks"]
    assert warm["cache"]["blocks_known"] <= kept / 1000
    assert warm["blocks"]["adopted"] > 0.9 * warm["blocks"]["requested"]
