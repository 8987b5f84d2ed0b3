# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian images besides the first: they boot, are what they claim, and do their task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from debianhelp import WORK, told
from machinehelp import TINY, sysqcache
from required import require_image

from sysqcache.spec import catalog

pytestmark = [
    pytest.mark.vm,
    pytest.mark.slow,
    pytest.mark.usefixtures("x86_engine", "own_state"),
]


def tasks(name: str, *commands: str) -> list[str]:
    """Boot an image without the cache, run commands, give what they printed."""
    require_image(name)
    arguments = [part for command in commands for part in ("--task", command)]
    done = sysqcache(
        "boot", TINY.with_name(f"{name}.yaml"), "--cache", "off", "--until", "ready", "--json",
        *arguments, timeout=550,
    )  # fmt: skip
    return outputs(json.loads(done.stdout))


def outputs(report: dict[str, Any]) -> list[str]:
    """What the tasks of a boot printed; all of them succeeded."""
    results: list[dict[str, Any]] = report["times"]["tasks"]
    assert [one["exit"] for one in results] == [0] * len(results), results
    return [one["stdout"].strip() for one in results]


def test_another_system_on_another_disk(other_cold: Path) -> None:
    work, running, disks, swap, name = outputs(told(other_cold))
    assert work.startswith("work: ok")
    assert running == "running"
    assert "vda1 [SWAP]" in disks.splitlines()
    assert "vda2 /" in disks.splitlines()
    assert "/dev/vda1" in swap
    first = json.loads((catalog.resolve("debian12-x86_64-other").disk or TINY)
                       .with_name(catalog.META).read_text())  # fmt: skip
    assert name == f"lagoon {first['kernel_release']}"


def test_one_library_in_another_version() -> None:
    work, version, differ, loaded = tasks(
        "debian12-x86_64-upgraded",
        WORK,
        "dpkg-query -W -f '${Version}' libssl3",
        "dpkg --verify libssl3 libc6 systemd",
        "python3 -c 'import ssl; print(ssl.OPENSSL_VERSION)'",
    )
    image = catalog.resolve("debian12-x86_64-upgraded")
    assert image.disk is not None
    meta = json.loads(image.disk.with_name(catalog.META).read_text())
    old, new = meta["changed"]["libssl3"]
    assert work.startswith("work: ok")
    assert old != new
    assert version == new
    assert differ == ""
    assert loaded.split()[1] == new.split("-")[0]
