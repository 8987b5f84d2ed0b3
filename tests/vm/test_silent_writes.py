# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that changes without a store: the host takes it back, a device writes to its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from enginehelp import Start, guest
from machinehelp import eventually
from programhelp import kernel32

from sysqcache.base import paths
from sysqcache.base.types import CacheMode
from sysqcache.spec.catalog import ImagePaths
from sysqcache.spec.engines import Engine

pytestmark = pytest.mark.vm


@pytest.mark.parametrize("mode", [CacheMode.OFF, CacheMode.ON])
def test_code_that_went_into_a_balloon(
    x86_engine: Engine, tiny_image: ImagePaths, tmp_path: Path, mode: CacheMode
) -> None:
    """The guest reads zeros there; see guest/balloon.c."""
    kernel = kernel32(tmp_path, "balloon")
    sets = (f"kernel={kernel}", "qemu_args=[-device, virtio-balloon-pci]")
    with guest(Start(mode, sets=sets, accel="x-audit=on"), tmp_path / "machine") as machine:
        log = machine.directory / paths.INSTANCE_SERIAL_LOG
        eventually(lambda: log.exists() and log.read_bytes().endswith(b"\n"))
        machine.audit()
        assert log.read_text() == "balloon: gone\n"


@pytest.mark.parametrize("mode", [CacheMode.OFF, CacheMode.ON])
def test_code_in_the_memory_of_a_device_that_writes_to_it(
    x86_engine: Engine, tiny_image: ImagePaths, tmp_path: Path, mode: CacheMode
) -> None:
    """What runs is what can be read, and the guest's own stores are noticed afterwards as well."""
    kernel = kernel32(tmp_path, "vram")
    sets = (f"kernel={kernel}", "qemu_args=[-device, VGA]")
    with guest(Start(mode, sets=sets, accel="x-audit=on"), tmp_path / "machine") as machine:
        log = machine.directory / paths.INSTANCE_SERIAL_LOG
        eventually(lambda: log.exists() and log.read_bytes().endswith(b"done\n"))
        machine.audit()
        assert log.read_text().split() == ["11", "22", "33", "done"]
