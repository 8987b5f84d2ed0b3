# SPDX-License-Identifier: GPL-2.0-or-later
"""Overlays that take a guest's writes and end with the machine."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sysqcache.base.devices import refuses_writes
from sysqcache.base.errors import DiskError
from sysqcache.base.types import DiskMode
from sysqcache.machine.launch.argv import overlay_disk
from sysqcache.spec.spec import Disk


def prepare_disks(disks: Sequence[Disk], directory: Path, qemu_img: Path) -> tuple[Disk, ...]:
    """The disks to give to QEMU: ephemeral ones behind fresh overlays in ``directory``.

    Overlays of an earlier run are removed first. Raises :class:`DiskError`.
    """
    remove_overlays(directory)
    for disk in disks:
        check_disk(disk)
    ephemeral = [d for d in disks if d.mode is DiskMode.EPHEMERAL]
    if ephemeral:
        directory.mkdir(mode=0o700)
    return tuple(
        overlay_disk(
            disk,
            create_overlay(disk.file, disk.format, directory / f"disk{index}.qcow2", qemu_img),
        )
        if disk.mode is DiskMode.EPHEMERAL
        else disk
        for index, disk in enumerate(disks)
    )


def remove_overlays(directory: Path) -> None:
    """Delete all overlays; they hold nothing that should stay."""
    shutil.rmtree(directory, ignore_errors=True)


def check_disk(disk: Disk) -> None:
    """Raise :class:`DiskError` when the image is missing or can't be used as wanted."""
    if not disk.file.exists():
        raise DiskError(f"no such disk image: {disk.file}", hint="change disks: in vm.yaml")
    wanted = os.R_OK | (os.W_OK if disk.mode is DiskMode.PERSISTENT else 0)
    if not os.access(disk.file, wanted):
        verb = "written" if os.access(disk.file, os.R_OK) else "read"
        raise DiskError(f"the disk image can't be {verb}: {disk.file}", hint="check its owner")
    if disk.device:
        _check_device(disk)


def _check_device(disk: Disk) -> None:
    """No guest writes beside this host, and a drive may hold nothing."""
    writes = disk.mode is DiskMode.PERSISTENT
    # O_EXCL of a device: the kernel has it for no file system and no other device
    flags = os.O_RDWR | os.O_EXCL if writes else os.O_RDONLY
    try:
        fd = os.open(disk.file, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise DiskError(
                f"this host uses the device itself: {disk.file} is mounted, or part of another",
                hint="unmount it, or use mode: ephemeral or read-only",
            ) from None
        verb = "written" if writes else "read"
        raise DiskError(f"the device can't be {verb}: {disk.file}: {error.strerror}") from None
    try:
        if os.lseek(fd, 0, os.SEEK_END) == 0:
            raise DiskError(f"the device holds nothing: {disk.file} has no medium, or no file")
        if writes and refuses_writes(fd):
            raise DiskError(
                f"the device can't be written: {disk.file} is read-only",
                hint="use mode: ephemeral or read-only",
            )
    finally:
        os.close(fd)


def create_overlay(file: Path, kind: str, overlay: Path, qemu_img: Path) -> Path:
    """Make an empty overlay over an image of a format; its path. Raises :class:`DiskError`."""
    command = [str(qemu_img), "create", "-q", "-f", "qcow2", "-F", kind]
    command += ["-b", str(file), str(overlay)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except OSError as error:
        raise DiskError(f"qemu-img can't be started: {error.strerror}: {qemu_img}") from None
    if done.returncode:
        raise _explain(file, done.stderr.strip())
    return overlay


def _explain(file: Path, message: str) -> DiskError:
    if "lock" in message:
        return DiskError(
            f"the disk image is used by another machine: {file}",
            hint="stop that machine, or use mode: ephemeral or read-only there",
            detail=message,
        )
    if "No space left" in message:
        return DiskError("no space left for the overlay", detail=message)
    return DiskError(f"the disk image can't be used: {file}", detail=message)
