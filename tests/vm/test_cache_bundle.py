# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocks go to another store in a file, and the first start there is warm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from machinehelp import NOKASLR, boot, report, sysqcache

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("x86_engine", "tiny_image", "own_state")]

TASK = ("--task", "work", "--set", NOKASLR)


def test_first_start_with_an_imported_bundle_is_warm(
    tiny_store: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle.tar.zst"
    exported = report("cache", "export", bundle)
    assert exported["blocks"] == tiny_store["cache"]["blocks_new"]

    monkeypatch.setenv("SYSQCACHE_STORE", str(tmp_path / "elsewhere"))
    taken = report("cache", "import", bundle)
    assert taken["blocks_new"] == exported["blocks"]
    warm = boot(*TASK)
    assert warm["times"]["tasks"][0]["exit"] == 0
    assert warm["blocks"]["hit_rate"] >= 0.85
    assert warm["cache"]["packs"] == exported["packs"]

    why = report("cache", "why", warm["machine"])
    assert not why["first"]
    assert why["counters"]["adopted"] >= warm["blocks"]["adopted"]
    assert sum(why["reasons"].values()) == why["blocks"]["recorded"]
    kernel = report("cache", "show", "kernel")
    assert kernel["modules"][0]["images"] == 1
    assert len(kernel["offsets"]) == kernel["modules"][0]["blocks"]
    named = [row for row in kernel["offsets"] if row["symbol"]]
    assert len(named) > len(kernel["offsets"]) / 2
    assert kernel["functions"][0]["name"] in sysqcache("cache", "show", "kernel").stdout
    verify = report("cache", "verify")
    assert verify["good"]
    assert report("cache", "import", bundle)["blocks_new"] == 0
