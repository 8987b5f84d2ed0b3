# SPDX-License-Identifier: GPL-2.0-or-later
"""How tests are divided among pytest's workers (``-n``).

The tests of a file stay together, so that what they set up for all of them is set up once; what
several files begin with is made by the first that asks (:func:`once`). Long files come first,
so that no worker is left with one at the end.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

LONGEST = (
    "vm/test_suspend.py",
    "vm/test_roots.py",
    "vm/test_jit.py",
    "vm/test_architectures.py",
    "vm/test_attribution_arches.py",
    "vm/test_guestmap.py",
    "domains/test_lives.py",
    "vm/test_helper.py",
    "vm/test_attribution.py",
    "domains/test_compare_domain.py",
    "vm/test_cache_debian.py",
    "vm/test_vcpus.py",
    "vm/test_moving.py",
    "qemu/test_engine_fuzz.py",
    "vm/test_verdicts.py",
    "vm/test_guestmap_hostile.py",
    "vm/test_cache_faults.py",
    "vm/test_compare_guest.py",
    "vm/test_cache_images.py",
)
"""Files in the order in which they start; the others follow by folder."""

_FOLDERS = ("vm", "domains", "browser", "qemu")


def place(path: Path) -> tuple[int, int, str]:
    """What files are sorted by."""
    name = path.relative_to(TESTS).as_posix()
    folder = name.partition("/")[0]
    return (
        LONGEST.index(name) if name in LONGEST else len(LONGEST),
        _FOLDERS.index(folder) if folder in _FOLDERS else len(_FOLDERS),
        name,
    )


def order(items: list[pytest.Item]) -> None:
    """Sort the tests; those of a file stay as they are."""
    items.sort(key=lambda item: place(item.path))


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """``folder`` with what ``make`` puts there: the first that asks makes it, others wait.

    It does not move afterwards: what is made may hold its name.
    """
    complete = folder.with_suffix(".complete")
    with folder.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            complete.touch()
    return folder
