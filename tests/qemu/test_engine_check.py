# SPDX-License-Identifier: GPL-2.0-or-later
"""The built engine tells what it is."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from sysqcache.base.errors import EngineBuildError
from sysqcache.setup.engine.check import check
from sysqcache.setup.engine.configure import TARGETS
from sysqcache.setup.engine.firmware import needed
from sysqcache.spec.engines import Engine, find_engine, load

pytestmark = pytest.mark.qemu


@pytest.fixture(scope="module", params=TARGETS)
def engine(request: pytest.FixtureRequest) -> Engine:
    return find_engine(request.param)


def test_the_engine_answers_and_has_the_cache(engine: Engine) -> None:
    result = check(engine)
    assert result.version.startswith("10.0.")
    assert result.has_cache
    assert "x-query-tb-cache" in result.commands
    assert result.reason == ""


def test_the_engine_is_described_truthfully(engine: Engine) -> None:
    recorded = engine.meta["build_ids"][engine.binary.name]
    assert len(engine.build_id) == 40
    assert engine.build_id == recorded


def test_all_firmware_is_there(engine: Engine) -> None:
    for names in needed(engine.meta["targets"]).values():
        for name in names:
            assert (engine.firmware_dir / name).stat().st_size > 0


def test_qemu_img_works(engine: Engine, tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    subprocess.run([engine.qemu_img, "create", "-q", "-f", "qcow2", disk, "1M"], check=True)
    done = subprocess.run(
        [engine.qemu_img, "info", "--output=json", disk], check=True, capture_output=True
    )
    assert json.loads(done.stdout)["format"] == "qcow2"


def test_a_binary_that_dies_is_explained(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    binary = tmp_path / "bin" / "qemu-system-x86_64"
    binary.write_text("#!/bin/sh\necho 'no such library' >&2\nexit 127\n")
    binary.chmod(0o755)
    broken = load(tmp_path, "x86_64")
    assert broken is not None
    with pytest.raises(EngineBuildError) as caught:
        check(broken)
    assert "127" in caught.value.message
    assert "no such library" in caught.value.detail
