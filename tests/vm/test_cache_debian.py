# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian guest, cold, verified and warm: the boots that decide whether the cache is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from debianhelp import WORK, boot, check_counters

pytestmark = [pytest.mark.vm, pytest.mark.slow]


def test_cold(cold: dict[str, Any]) -> None:
    check_counters(cold)
    assert cold["blocks"]["adopted"] == 0
    assert cold["times"]["tasks"][0]["exit"] == 0
    assert cold["cache"]["blocks_new"] >= 200_000
    assert cold["cache"]["blocks_damaged"] == 0


def test_verify_finds_nothing_different(cold: dict[str, Any], store: Path) -> None:
    report = boot(store, "--cache", "verify", "--task", WORK)
    check_counters(report)
    blocks = report["blocks"]
    assert blocks["mismatches"] == 0, blocks["mismatch_log"]
    assert blocks["verified"] >= 200_000
    assert report["times"]["tasks"][0]["stdout"] == cold["times"]["tasks"][0]["stdout"]


def test_the_second_boot_is_warm(cold: dict[str, Any], store: Path) -> None:
    report = boot(store, "--task", WORK)
    check_counters(report)
    assert report["fingerprint"] == cold["fingerprint"]
    assert report["blocks_at_ready"]["hit_rate"] >= 0.85
    assert report["times"]["tasks"][0]["stdout"] == cold["times"]["tasks"][0]["stdout"]
