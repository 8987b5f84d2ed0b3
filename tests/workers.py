# SPDX-License-Identifier: GPL-2.0-or-later
"""How tests are divided among pytest's workers (``-n``), and who has the machine alone.

Files stay together, so that what they set up for all their tests is set up once; files that
share more than that are one group. Long groups come first, so that no worker is left with one
at the end. Times are compared on a machine that others use as well: tests with a limit in
seconds are marked ``alone``, and no other worker runs a test meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

TOGETHER = {
    "vm/test_cache_images.py": "vm/test_cache_debian.py",
    "vm/test_guestmap_debian.py": "vm/test_attribution.py",
}
"""Files that share a guest's boot or a store with another file."""

LONGEST = ()
"""Groups in the order in which they start; the others follow by folder."""

_FOLDERS = ("vm", "domains", "browser", "qemu")


def group_of(path: Path) -> str:
    """Name of the group that a file's tests run in."""
    name = path.relative_to(TESTS).as_posix()
    return TOGETHER.get(name, name)


def place(group: str) -> tuple[int, int]:
    """What groups are sorted by."""
    folder = group.partition("/")[0]
    return (
        LONGEST.index(group) if group in LONGEST else len(LONGEST),
        _FOLDERS.index(folder) if folder in _FOLDERS else len(_FOLDERS),
    )


def divide(items: list[pytest.Item]) -> None:
    """Mark each test with its group, and sort them: the order in a file stays."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item.path)))
    items.sort(key=lambda item: (place(group_of(item.path)), group_of(item.path)))


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """``folder`` with what ``make`` puts there: the first that asks makes it, others wait."""
    with folder.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            making = folder.with_suffix(".part")
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            make(making)
            making.rename(folder)
    return folder


@contextlib.contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Wait until a test may run: with others, or ``alone`` on the machine.

    Who wants to be alone holds the gate while waiting, so that no others get in between.
    """
    with (folder / "gate").open("a") as gate, (folder / "turn").open("a") as lock:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield
