# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine whose blocks can't be kept runs without the cache, and says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from machinehelp import report, sysqcache
from programhelp import kernel32

from sysqcache.base import paths
from sysqcache.spec.engines import Engine

pytestmark = pytest.mark.vm

REASON = "blocks can't be kept with icount or record/replay"


@pytest.mark.parametrize("mode", ["on", "read-only", "verify"])
def test_the_reason_is_told_wherever_one_looks(
    own_state: Path, x86_engine: Engine, tmp_path: Path, mode: str
) -> None:
    config = tmp_path / "counting.yaml"
    config.write_text(
        f"memory: 64MiB\nkernel: {kernel32(tmp_path)}\nqemu_args: [-icount, shift=auto]\n"
        'ready: {pattern: "sysqcache: ready", timeout: 60s}\n'
    )
    found = report("boot", config, "--until", "ready", "--cache", mode)
    assert found["warnings"] == [f"the cache is not used: {REASON}"]
    blocks = found["blocks"]
    assert (blocks["adopted"], blocks["recorded"], blocks["verified"]) == (0, 0, 0)
    assert found["attribution"]["blocks"] == 0
    assert report("status", "counting")["cache_reason"] == REASON
    assert REASON in sysqcache("cache", "why", "counting").stdout
    # nothing is left of a journal that was never written
    assert list((paths.store_dir() / paths.STORE_JOURNALS).iterdir()) == []
