# SPDX-License-Identifier: GPL-2.0-or-later
"""An image that never ran, on the file systems that people have, starts warm.

Its packages are those of another image, whose disk is one ext4 file system. Each boot is in
verify mode: every block that the other image left is translated afresh and compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from debianhelp import DEBIAN, boot, check_counters
from debianroots import LAYOUTS, raw_disk
from required import require_image

from sysqcache.spec.catalog import HELPER
from sysqcache.spec.engines import Engine

pytestmark = [pytest.mark.vm, pytest.mark.slow]


def config(folder: Path, disk: Path, changes: dict[str, str]) -> Path:
    """The machine of Debian's own configuration with another disk; "": without that field."""
    text = DEBIAN.read_text().replace(
        "file: image:debian12-x86_64", f"file: {disk}\n    format: raw"
    )
    kept = [line for line in text.splitlines() if line.partition(":")[0] not in changes]
    added = [f"{name}: {value}" for name, value in changes.items() if value]
    file = folder / "vm.yaml"
    file.write_text("\n".join([*kept, *added, ""]))
    return file


@pytest.mark.parametrize("layout", LAYOUTS)
def test_first_boot_of_an_image_with_another_root(
    layout: str, cold: dict[str, Any], store: Path, x86_engine: Engine, tmp_path: Path
) -> None:
    require_image(HELPER)
    original = require_image("debian12-x86_64")
    disk, changes = LAYOUTS[layout](raw_disk(original, x86_engine, tmp_path), tmp_path)
    report = boot(store, "--cache", "verify", config=config(tmp_path, disk, changes))
    check_counters(report)
    blocks = report["blocks"]
    assert blocks["mismatches"] == 0, blocks["mismatch_log"]
    assert blocks["hit_rate"] >= 0.90
