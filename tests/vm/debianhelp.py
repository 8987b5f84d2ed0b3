# SPDX-License-Identifier: GPL-2.0-or-later
"""Booting the Debian guests, each with a store of the test's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from machinehelp import TINY, sysqcache

from sysqcache.base import paths

DEBIAN = TINY.with_name("debian12-x86_64.yaml")
OTHER = TINY.with_name("debian12-x86_64-other.yaml")
UPGRADED = TINY.with_name("debian12-x86_64-upgraded.yaml")
WORK = "/usr/local/bin/work"
QUESTIONS = (
    "systemctl is-system-running --wait",
    "lsblk -nro NAME,MOUNTPOINTS",
    "cat /proc/swaps",
    "uname -nr",
)
"""What a guest is asked about itself."""


def boot(store: Path, *arguments: object, config: Path = DEBIAN) -> dict[str, Any]:
    """Boot Debian with a store; the report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.ENV_STORE, str(store))
        done = sysqcache("boot", config, "--until", "ready", "--json", *arguments, timeout=550)
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["warnings"] == []
    return report


def told(folder: Path) -> dict[str, Any]:
    """The report that was kept of a first boot."""
    report: dict[str, Any] = json.loads((folder / "report").read_text())
    return report


def check_counters(report: dict[str, Any]) -> None:
    """Every block has one outcome; the guest runs, so one may be on its way."""
    blocks = report["blocks"]
    outcomes = blocks["adopted"] + sum(blocks["misses"].values()) + blocks["verified"]
    assert abs(blocks["requested"] - blocks["adopted"] - blocks["translated"]) <= 1
    assert abs(blocks["requested"] - outcomes) <= 1
    assert sum(blocks["rejected"].values()) == 0
