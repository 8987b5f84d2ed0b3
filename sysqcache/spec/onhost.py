# SPDX-License-Identifier: GPL-2.0-or-later
"""What a vm.yaml names of the host: is it there, and can it be used?"""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

_SHOWN: Final = 200
_PC_FIRMWARE: Final = 64 << 10


def shown(path: Path) -> str:
    """A path in a message, not longer than a message can be."""
    text = str(path)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def unusable(path: Path) -> str:
    """Why a path is no file that can be read, "" when it is one."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return f"no such file: {shown(path)}"
    except (OSError, ValueError) as error:
        return f"can't be read: {shown(path)}: {getattr(error, 'strerror', error)}"
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        return f"not a file: {shown(path)}"
    return "" if os.access(path, os.R_OK) else f"can't be read: {shown(path)}"


def is_here(address: str, protocol: str) -> bool:
    """Whether this host has the address; where that can't be known QEMU will tell."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    try:
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.bind((address, 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True


def unwritable(path: Path) -> str:
    """Why a log can't be written to this path, "" when it can."""
    try:
        if path.is_dir() or not path.parent.is_dir():
            return f"not a file in a folder: {shown(path)}"
        good = os.access(path if path.exists() else path.parent, os.W_OK)
    except (OSError, ValueError) as error:
        return f"can't be written: {shown(path)}: {getattr(error, 'strerror', error)}"
    return "" if good else f"can't be written: {shown(path)}"


def is_same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file that is there."""
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


def no_pc_firmware(file: Path) -> str:
    """Why a PC can't start with this file, "" when nothing is seen that speaks against it."""
    try:
        if file.stat().st_size % _PC_FIRMWARE == 0:
            return ""
    except OSError:
        return ""
    return (
        f"the firmware of a PC has a whole number of 64 KiB: {shown(file)} has not. An OVMF_CODE "
        "file comes without its variables: name the file with both (OVMF.fd), or give both by "
        "qemu_args as -drive if=pflash,..."
    )
