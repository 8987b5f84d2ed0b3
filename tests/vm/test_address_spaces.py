# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest may find when it goes from one address space to another; see guest/spaces.c."""

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

RULES = "few many code much-code out back invlpg pge no-pge without large kept"


@pytest.mark.parametrize("mode", [CacheMode.OFF, CacheMode.ON])
def test_pages_of_an_address_space_go_with_it_and_global_ones_stay(
    x86_engine: Engine, tiny_image: ImagePaths, tmp_path: Path, mode: CacheMode
) -> None:
    sets = (f"kernel={kernel32(tmp_path, 'spaces')}",)
    with guest(Start(mode, sets=sets, accel="x-audit=on"), tmp_path / "machine") as machine:
        log = machine.directory / paths.INSTANCE_SERIAL_LOG
        eventually(lambda: log.exists() and log.read_text().endswith(("kept\n", "kept!\n")))
        machine.audit()
        assert log.read_text().split() == RULES.split()
