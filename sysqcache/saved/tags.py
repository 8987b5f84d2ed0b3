# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of snapshots inside the disks, of which one replaces another without a gap.

QEMU can't rename a snapshot. So the one that takes the place of ``TAG`` is saved as ``TAG~1``,
the next as ``TAG~2``, and the one before is deleted when it is complete. The highest number
that is in all disks is ``TAG``, whenever a command was killed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from sysqcache.base.errors import UsageError
from sysqcache.qmp.blocknodes import BlockNode

_NUMBERED: Final = re.compile(r"(?s)(.+)~(\d+)")
_MAX_BYTES: Final = 200


def check_tag(tag: str) -> None:
    """Raise :class:`UsageError` for what can't be the name of a snapshot."""
    # QEMU takes numbers for ids of snapshots
    bad = not tag or tag.isdecimal() or "/" in tag or not tag.isprintable()
    if bad or _NUMBERED.fullmatch(tag) or len(tag.encode()) > _MAX_BYTES:
        raise UsageError(f"{tag!r} can't be the name of a snapshot", hint="use letters")


def split(name: str) -> tuple[str, int]:
    """Tag and number of a snapshot in a disk."""
    found = _NUMBERED.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, 0)


def tags(disks: Sequence[BlockNode]) -> dict[str, str]:
    """Of each tag that is complete, the name of its snapshot in the disks."""
    names = [{str(one["name"]) for one in disk.snapshots} for disk in disks]
    complete = set.intersection(*names) if names else set()
    return {split(name)[0]: name for name in sorted(complete, key=split)}


def next_name(disks: Sequence[BlockNode], tag: str) -> str:
    """The name for a new snapshot: none of a disk has it, and it is the highest."""
    numbers = [number for _, number in others(disks, tag)]
    return f"{tag}~{max(numbers) + 1}" if numbers else tag


def others(disks: Sequence[BlockNode], tag: str) -> list[tuple[str, int]]:
    """Names and numbers of all snapshots of a tag, complete or not."""
    names = {str(one["name"]) for disk in disks for one in disk.snapshots}
    return sorted((name, split(name)[1]) for name in names if split(name)[0] == tag)
