# SPDX-License-Identifier: GPL-2.0-or-later
"""What an image holds, whatever its file systems are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sysqcache.attribution.imagescan.reader import ImageContents
    from sysqcache.attribution.imagescan.volume import Opened, Unread
    from sysqcache.spec.spec import Disk, MachineSpec


def scan_image(spec: MachineSpec) -> ImageContents:
    """What code a machine's image holds; see :func:`imagescan.scan.scan`.

    What is no ext2, ext3 or ext4 is read by the helper, which is only started for it.
    """
    from sysqcache.attribution.imagescan.scan import scan

    return scan(spec, others=_visit)


def _visit(disks: Sequence[Disk], unread: Sequence[Unread]) -> Opened:
    from sysqcache.machine.helper.visit import visit

    return visit(disks, unread)
