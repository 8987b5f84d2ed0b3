# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a disk was full: QEMU does not always say so when it could not write."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from sysqcache.base.errors import MachineError


def free_bytes(path: Path) -> int:
    """Bytes that are free where ``path`` lies. Raises OSError."""
    found = os.statvfs(path.parent)
    return found.f_bavail * found.f_frsize


def shortage(files: Iterable[Path], needed: int) -> str:
    """Which directory has less than ``needed`` bytes left, "" when none has."""
    for file in files:
        try:
            free = free_bytes(file)
        except OSError:
            continue
        if free < needed:
            return f"no space left in {file.parent} ({free >> 20:,} MiB are free)"
    return ""


def explained(error: MachineError, files: Iterable[Path], needed: int) -> tuple[str, str]:
    """Message and hint for a failure to write ``needed`` bytes to ``files``."""
    full = shortage(files, needed)
    text = f"{full}: {error.message}" if full else error.message
    return text, "free some space and try again" if full else ""
