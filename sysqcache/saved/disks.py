# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks of saved machines: frozen at the moment of saving, told apart from changed ones."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from sysqcache.errors import DiskError, SavedStateError
from sysqcache.launch.overlay import create_overlay, remove_overlays
from sysqcache.saved.ramfile import file_checksum
from sysqcache.saved.record import FileIdentity, Method, SavedDisk
from sysqcache.spec import Disk
from sysqcache.types import DiskFormat, DiskMode

_FROZEN: Final = 0o400


def own_name(index: int) -> str:
    """Name of the machine's own disk number ``index``, in its instance and when saved."""
    return f"disk{index}.qcow2"


def freeze(
    disks: Sequence[Disk], overlays: Path, slot: Path, qemu_img: Path, *, checksums: bool
) -> tuple[SavedDisk, ...]:
    """Take the disks of a machine that does not write any more into its saved directory.

    :param checksums: also hash the machine's own disks.
    Raises OSError or :class:`DiskError`.
    """
    return tuple(
        _freeze(disk, overlays / own_name(i), slot / own_name(i), qemu_img, checksums)
        for i, disk in enumerate(disks)
    )


def _freeze(disk: Disk, overlay: Path, own: Path, qemu_img: Path, checksums: bool) -> SavedDisk:
    file = disk.file
    if disk.mode is DiskMode.EPHEMERAL:
        # the same file under a second name: the first goes with the machine
        if not own.exists():
            link_or_copy(overlay, own)
        file = own
    chain = {path: FileIdentity.of(Path(path)) for path in _chain(file, qemu_img)}
    is_own = disk.mode is DiskMode.EPHEMERAL
    return SavedDisk(
        own=own.name if is_own else "",
        file=str(disk.file),
        format=str(disk.format),
        mode=str(disk.mode),
        checksum=file_checksum(file) if is_own and checksums else "",
        identity=FileIdentity.of(file),
        chain={path: one for path, one in chain.items() if path != str(own)},
    )


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP):
            raise
        shutil.copyfile(source, target)


def _chain(file: Path, qemu_img: Path) -> list[str]:
    """Paths of an image and of all that lies below it."""
    command = [str(qemu_img), "info", "-U", "--backing-chain", "--output=json", str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise DiskError(f"the disk image can't be read: {file}", detail=done.stderr.strip())
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return [str(Path(one["filename"]).absolute()) for one in found]


def snapshot_tags(file: Path, qemu_img: Path) -> list[str]:
    """Internal snapshots of an image. Raises :class:`DiskError`."""
    command = [str(qemu_img), "info", "-U", "--output=json", str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise DiskError(f"the disk image can't be read: {file}", detail=done.stderr.strip())
    return [one["name"] for one in json.loads(done.stdout).get("snapshots", [])]


def check(name: str, disk: SavedDisk, directory: Path, *, may_have_run: bool) -> None:
    """Raise :class:`SavedStateError` unless a disk is as it was saved.

    :param may_have_run: the machine's own disk may have been written by a machine that was
        resumed from it (which an internal snapshot survives).
    """
    for path, identity in disk.chain.items():
        _require_same(name, Path(path), identity)
    if not disk.own:
        return
    file = directory / disk.own
    try:
        now = FileIdentity.of(file)
    except OSError:
        raise _lost(name, file) from None
    if now == disk.identity or (may_have_run and now.size >= disk.identity.size):
        return
    if disk.checksum and file_checksum(file) == disk.checksum:
        return
    raise SavedStateError(
        f"the saved machine {name} can't be resumed: its disk {file} is not what was saved",
        hint=f"sysqcache boot starts it afresh, sysqcache snapshot delete {name} forgets it",
    )


def _require_same(name: str, path: Path, identity: FileIdentity) -> None:
    try:
        now = FileIdentity.of(path)
    except OSError:
        raise _lost(name, path) from None
    if now != identity:
        raise SavedStateError(
            f"the saved machine {name} can't be resumed: {path} was changed since it was saved",
            hint="its memory does not fit the disk any more; sysqcache boot starts it afresh, "
            f"sysqcache snapshot delete {name} forgets it",
        )


def _lost(name: str, path: Path) -> SavedStateError:
    return SavedStateError(
        f"the saved machine {name} can't be resumed: {path} is missing",
        hint=f"put it back, or forget the machine: sysqcache snapshot delete {name}",
    )


def thaw(
    disks: Sequence[SavedDisk], method: Method, directory: Path, overlays: Path, qemu_img: Path
) -> tuple[Disk, ...]:
    """Disks for a machine that is resumed: the saved ones stay as they are.

    An internal snapshot lives in the disk itself, so that is used; others get a fresh
    overlay. Raises :class:`DiskError` or OSError.
    """
    remove_overlays(overlays)
    overlays.mkdir(mode=0o700)
    return tuple(
        _thaw(disk, method, directory / disk.own, overlays / own_name(index), qemu_img)
        for index, disk in enumerate(disks)
    )


def _thaw(disk: SavedDisk, method: Method, own: Path, overlay: Path, qemu_img: Path) -> Disk:
    mode = DiskMode(disk.mode)
    if not disk.own:
        return Disk(Path(disk.file), DiskFormat(disk.format), mode)
    if method is Method.INTERNAL:
        link_or_copy(own, overlay)
    else:
        create_overlay(Disk(own, DiskFormat.QCOW2, mode), overlay, qemu_img)
    return Disk(overlay, DiskFormat.QCOW2, mode)
