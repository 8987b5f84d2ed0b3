# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be known of a block device: whether anyone has written to it.

A device has no time of its last change. The kernel counts what was written to each since it
came up, and numbers devices as they come; none of this outlives a start of the host.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from sysqcache.base.files import held

_SYS: Final = Path("/sys/dev/block")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_SECTORS_CHANGED: Final = (6, 13)
"""Places in sysfs' ``stat``: sectors written, and discarded; a flush alone is a write of none."""
_BLKROGET: Final = 0x125E
_LOOKING: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def device_size(path: Path) -> int:
    """Bytes of a device, whose inode has no size. Raises OSError."""
    with held(os.open(path, _LOOKING)) as fd:
        return os.lseek(fd, 0, os.SEEK_END)


def refuses_writes(fd: int) -> bool:
    """Whether an open device is read-only, which opening it for writing may not tell."""
    return fcntl.ioctl(fd, _BLKROGET, bytes(4)) != bytes(4)


def device_state(path: Path) -> str:
    """Equal texts: nobody on this host wrote to a device in between; "" for what is none.

    What is written past the device is seen for loop devices, in the file below; of disks that
    several hosts share nothing is known of the others. A partition counts as written to when
    anything on its disk is. Raises OSError, also when the kernel tells too little.
    """
    if not path.is_block_device():
        return ""
    _settle(path)
    number = path.stat().st_rdev
    node = (_SYS / f"{os.major(number)}:{os.minor(number)}").resolve()
    whole = node.parent if (node / "partition").exists() else node
    try:
        counters = (whole / "stat").read_text().split()
        written = [counters[place] for place in _SECTORS_CHANGED]
        host = _BOOT_ID.read_text().strip()
    except (OSError, IndexError):
        text = "nothing tells whether this device is written to"
        raise OSError(errno.ENODATA, text, str(path)) from None
    age = [_line(whole / "diskseq"), _line(node / "start")]
    return " ".join([host, str(number), *age, *written, _below(whole)])


def _settle(path: Path) -> None:
    """What the host holds back for a device is counted when it is written."""
    with held(os.open(path, _LOOKING)) as fd:
        os.fsync(fd)


def _line(file: Path) -> str:
    """The only line of a file; "-" where there is none: older kernels, or not a partition."""
    try:
        return file.read_text().rstrip("\n")
    except OSError:
        return "-"


def _below(whole: Path) -> str:
    """The file of a loop device, which others may write to; "-" for other devices."""
    name = _line(whole / "loop" / "backing_file")
    if name == "-":
        return name
    try:
        info = Path(name).stat()
    except OSError:
        return "gone"
    return f"{info.st_size}.{info.st_mtime_ns}.{info.st_ino}"
