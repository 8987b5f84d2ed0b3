# SPDX-License-Identifier: GPL-2.0-or-later
"""Boots of the tiny guest: cold, warm, verified, off; disks; tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
from machinehelp import NOKASLR, TINY, boot, report, stored_blocks, sysqcache

from sysqcache.base import paths
from sysqcache.base.errors import EngineMissing
from sysqcache.spec.engines import find_engine

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("x86_engine", "tiny_image", "own_state")]


def test_cold_then_warm_then_verified() -> None:
    cold = boot("--task", "work", "--set", NOKASLR)
    blocks = cold["blocks"]
    assert cold["cache_mode"] == "on"
    assert cold["warnings"] == []
    assert blocks["misses"]["no-pack"] + blocks["misses"]["absent"] > 10_000
    assert blocks["translated"] + blocks["adopted"] == blocks["requested"]
    assert cold["cache"]["packs"] == 0
    assert cold["cache"]["blocks_new"] > 10_000
    assert stored_blocks() == cold["cache"]["blocks_new"]

    warm = boot("--task", "work", "--set", NOKASLR)
    assert warm["fingerprint"] == cold["fingerprint"]
    assert warm["cache"]["packs"] == 3  # of the firmware, the kernel, the files
    assert warm["cache"]["pack_blocks"] == cold["cache"]["blocks_new"]
    assert warm["blocks"]["hit_rate"] > 0.9
    assert warm["blocks_at_ready"]["requested"] <= warm["blocks"]["requested"]
    assert sum(warm["blocks"]["rejected"].values()) == 0
    assert warm["times"]["tasks"][0]["stdout"] == cold["times"]["tasks"][0]["stdout"]

    verified = boot("--task", "work", "--set", NOKASLR, "--cache", "verify")
    assert verified["blocks"]["verified"] > 10_000
    assert verified["blocks"]["mismatches"] == 0, verified["blocks"]["mismatch_log"]
    assert verified["blocks"]["adopted"] == 0
    assert verified["times"]["tasks"][0]["stdout"] == cold["times"]["tasks"][0]["stdout"]

    before = stored_blocks()
    read_only = boot("--set", NOKASLR, "--cache", "read-only")
    assert read_only["blocks"]["hit_rate"] > 0.9
    assert read_only["cache"]["journal_bytes"] == 0
    assert stored_blocks() == before


def test_cache_off_is_all_zeros_and_touches_no_store() -> None:
    off = boot("--cache", "off", "--task", "echo out; echo err >&2; exit 3", "--task", "true")
    assert off["cache_mode"] == "off"
    assert off["blocks"]["requested"] == 0
    assert off["warnings"] == []
    assert not paths.store_dir().exists()
    first, second = off["times"]["tasks"]
    assert (first["exit"], second["exit"]) == (3, 0)
    assert first["stdout"] == "out\nerr\n"
    assert 0 < first["wall_s"] < 10
    times = off["times"]
    assert 0 < times["launch_s"] < times["ready_s"] < times["wall_s"]
    assert times["host_cpu_s"] > 0


def test_afterwards_the_machine_is_listed_and_leaves_no_overlay() -> None:
    sysqcache("boot", TINY, "--cache", "off")
    [machine] = report("list")["machines"]
    assert (machine["name"], machine["state"], machine["pid"]) == ("tiny", "stopped", None)
    assert machine["ready_s"] > 0
    assert not (paths.instance_dir("tiny") / paths.INSTANCE_OVERLAYS).exists()
    assert "sysqcache: ready" in sysqcache("logs", "tiny").stdout
    assert sysqcache("logs", "tiny", "--qemu").stdout == ""
    sysqcache("exec", "tiny", "--", "true", code=10)


def test_until_exit_waits_for_the_guest() -> None:
    done = boot("--cache", "off", "--until", "exit", "--task", "(sleep 1; poweroff -f) &")
    assert done["times"]["wall_s"] > done["times"]["ready_s"] + 0.9
    assert not done["interrupted"]


def test_disk_modes(tmp_path: Path) -> None:
    disk = tmp_path / "a,b.img"
    disk.write_bytes(b"before" + bytes((1 << 20) - 6))
    command = "head -c 6 /dev/vda; printf after- | dd of=/dev/vda conv=notrunc 2>/dev/null; sync"

    def run(mode: str) -> str:
        value = f'disks=[{{file: "{disk}", format: raw, mode: {mode}}}]'
        done = boot("--cache", "off", "--set", value, "--task", command)
        return str(done["times"]["tasks"][0]["stdout"])

    assert run("ephemeral") == "before"
    assert disk.read_bytes()[:6] == b"before"
    assert run("read-only") == "before"
    assert disk.read_bytes()[:6] == b"before"
    assert run("persistent") == "before"
    assert disk.read_bytes()[:6] == b"after-"


def test_an_engine_without_the_cache_runs_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    try:
        plain = find_engine("x86_64", plain=True)
    except EngineMissing as error:
        pytest.skip(error.message)
    monkeypatch.setenv("SYSQCACHE_ENGINE", str(plain.dir))
    done = boot()
    assert done["cache_mode"] == "off"
    assert "running with the cache off" in done["warnings"][0]


def test_a_store_that_can_not_be_used_stops_nothing() -> None:
    paths.store_dir().mkdir(parents=True)
    (paths.store_dir() / paths.STORE_FORMAT).write_text("sysqcache store 999\n")
    done = boot()
    assert done["times"]["ready_s"] > 0
    assert "version 999" in done["warnings"][0]
    assert (paths.store_dir() / paths.STORE_FORMAT).read_text() == "sysqcache store 999\n"
