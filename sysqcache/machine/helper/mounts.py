# SPDX-License-Identifier: GPL-2.0-or-later
"""How the helper mounts what a disk holds: read-only, and without replaying a journal."""

from __future__ import annotations

import dataclasses
from typing import Final


@dataclasses.dataclass(frozen=True, slots=True)
class MountKind:
    """A file system's name in Linux, and options besides being read-only."""

    name: str
    options: str = ""


KINDS: Final = {
    "ext": MountKind("ext4", "noload"),
    "XFS": MountKind("xfs", "norecovery,nouuid"),
    "btrfs": MountKind("btrfs", "rescue=nologreplay"),
    "f2fs": MountKind("f2fs", "norecovery"),
    "squashfs": MountKind("squashfs"),
    "erofs": MountKind("erofs"),
    "ISO 9660": MountKind("iso9660"),
    "FAT": MountKind("vfat"),
}
"""By the names of :func:`partitions.identify`."""

GROUP: Final = "LVM"
"""A part of a volume group, which is no file system by itself."""

PACKED_ROOTS: Final = (
    "/live/filesystem.squashfs",  # Debian
    "/casper/filesystem.squashfs",  # Ubuntu
    "/casper/minimal.squashfs",
    "/LiveOS/squashfs.img",  # Fedora
    "/LiveOS/rootfs.img",
    "/arch/x86_64/airootfs.sfs",
    "/boot/x86_64/root.squashfs",
)
"""Where systems that run from a read-only image have it, an overlay above it or not."""

PACKED_IN: Final = frozenset({"ISO 9660", "FAT", "ext", "squashfs"})
"""File systems that hold such an image."""
