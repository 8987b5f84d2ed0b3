# SPDX-License-Identifier: GPL-2.0-or-later
"""What a start asks of the store, and what the store knows of the run then."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from sysqcache.formats.runfiles import RunFiles
from sysqcache.machine.cache import Keeper, StartSet
from sysqcache.spec import resolve


def prepared(tmp_path: Path, *start: str) -> StartSet:
    """For a machine without anything to read."""
    file = tmp_path / "vm.yaml"
    file.write_text("name: vm")
    warnings: list[str] = []
    found = Keeper(warnings.append, tmp_path / "store").prepare(resolve.load(file), *start)
    assert warnings == []
    return found


@pytest.mark.parametrize("start", ["internal", "file", "template"])
def test_a_resumed_run_is_kept_as_what_it_is(tmp_path: Path, start: str) -> None:
    with contextlib.closing(prepared(tmp_path, start)) as found:
        assert found.journal is not None
        assert RunFiles(found.journal).read_note().run.start == start


def test_a_boot_is_kept_as_a_boot(tmp_path: Path) -> None:
    with contextlib.closing(prepared(tmp_path)) as found:
        assert found.journal is not None
        assert RunFiles(found.journal).read_note().run.start == "boot"
