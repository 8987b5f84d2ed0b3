# SPDX-License-Identifier: GPL-2.0-or-later
"""Images that never ran start warm with what another image brought of their modules.

Both boots are in verify mode: every block that the other image left is translated afresh
and compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from debianhelp import OTHER, UPGRADED, boot, check_counters
from required import require_image

from sysqcache.store.meta import Meta
from sysqcache.store.records import ImageRow

pytestmark = [pytest.mark.vm, pytest.mark.slow]


def last_misses(store: Path) -> dict[tuple[str, str], int]:
    """Blocks that the last run had to translate, by module kind and name."""
    with Meta(store / "meta", read_only=True) as meta:
        rows = meta.modules()
        return {
            (rows[number].kind, rows[number].name): sum(reasons.values())
            for number, reasons in meta.why(meta.counters.runs).items()
        }


def images(store: Path) -> dict[str, ImageRow]:
    with Meta(store / "meta", read_only=True) as meta:
        return meta.images()


def test_first_boot_of_another_image(cold: dict[str, Any], store: Path) -> None:
    require_image("debian12-x86_64-other")
    report = boot(store, "--cache", "verify", config=OTHER)
    check_counters(report)
    assert report["blocks"]["mismatches"] == 0, report["blocks"]["mismatch_log"]
    assert report["blocks"]["hit_rate"] >= 0.85
    assert report["blocks"]["verified"] >= 200_000
    # its own programs are what it did not find
    assert last_misses(store)["file", "/usr/sbin/rsyslogd"] >= 1000
    assert set(images(store)) == {"debian12-x86_64", "debian12-x86_64-other"}


def test_first_boot_after_a_library_changed(cold: dict[str, Any], store: Path) -> None:
    require_image("debian12-x86_64-upgraded")
    report = boot(store, "--cache", "verify", config=UPGRADED)
    check_counters(report)
    assert report["blocks"]["mismatches"] == 0, report["blocks"]["mismatch_log"]
    assert report["blocks"]["hit_rate"] >= 0.90
    misses = {name: count for (kind, name), count in last_misses(store).items() if kind == "file"}
    coldest = max(misses, key=lambda name: misses[name])
    assert "/libcrypto.so" in coldest
    # no other file is cold
    assert misses.pop(coldest) >= 5 * max(misses.values())
