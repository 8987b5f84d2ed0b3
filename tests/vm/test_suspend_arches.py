# SPDX-License-Identifier: GPL-2.0-or-later
"""Suspend and resume of guests of other architectures, and of several vCPUs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machinehelp import TINY, end_all, qcow2_disk, report, sysqcache
from required import require_engine, require_image

pytestmark = pytest.mark.vm

NAME = "tiny"
CONFIGS = {
    "x86_64": TINY,
    "aarch64": TINY.with_name("tiny-arm64.yaml"),
    "riscv64": TINY.with_name("tiny-riscv64.yaml"),
}
MACHINES = [("x86_64", 2), ("aarch64", 1), ("aarch64", 2), ("riscv64", 1), ("riscv64", 2)]
METHODS = ("internal", "file", "template")


@pytest.fixture
def state(own_state: Path) -> Iterator[Path]:
    """State of the test's own; what runs in it ends with the test."""
    yield own_state
    end_all()


def start(arch: str, vcpus: int, directory: Path) -> str:
    """Boot, run the work once, and leave the answer in memory alone."""
    config = CONFIGS[arch]
    engine = require_engine(arch)
    require_image(config.stem if arch != "x86_64" else "tiny-x86_64")
    disk = qcow2_disk(engine, directory)
    sets = (f"name={NAME}", f"vcpus={vcpus}", f"disks=[{{file: {disk}}}]")
    options = [part for one in sets for part in ("--set", one)]
    report("boot", config, "--detach", "--task", "work", *options)
    nonce = f"{random.getrandbits(64):016x}"
    sysqcache("exec", NAME, "--", f"echo {nonce} > /tmp/nonce")
    return nonce


def outputs(found: dict[str, Any]) -> list[str]:
    assert [task["exit"] for task in found["times"]["tasks"]] == [0] * len(found["times"]["tasks"])
    return [task["stdout"].strip() for task in found["times"]["tasks"]]


@pytest.mark.parametrize(
    ("arch", "vcpus"),
    [("x86_64", 2), ("aarch64", 1), ("aarch64", 2), ("riscv64", 1), ("riscv64", 2)],
)
def test_memory_comes_back_and_code_is_warm(
    state: Path, tmp_path: Path, arch: str, vcpus: int
) -> None:
    nonce = start(arch, vcpus, tmp_path)
    for method in METHODS:
        assert report("suspend", NAME, "--method", method)["method"] == method
        asked = ("cat /tmp/nonce; echo other > /tmp/nonce", "nproc", "work")
        found = report("resume", NAME, *(part for one in asked for part in ("--task", one)))
        told, processors, work = outputs(found)
        assert (found["start"], told, processors) == (method, nonce, str(vcpus))
        assert work.startswith("work: ok")
        assert found["warnings"] == []
        assert found["blocks"]["hit_rate"] > 0.8, found["blocks"]
        assert sum(found["blocks"]["rejected"].values()) == 0
        if method != METHODS[-1]:
            sysqcache("resume", NAME)
    verified = report("resume", NAME, "--cache", "verify", "--task", "work")["blocks"]
    assert verified["verified"] > 1000
    assert verified["mismatches"] == 0, verified["mismatch_log"]
