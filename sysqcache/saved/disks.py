# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks of saved machines: frozen at the moment of saving, told apart from changed ones."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sysqcache.base.devices import device_size
from sysqcache.base.errors import DiskError, SavedStateError
from sysqcache.base.types import DiskFormat, DiskMode
from sysqcache.formats.ramfile import file_checksum
from sysqcache.machine.launch.argv import file_options
from sysqcache.machine.launch.overlay import create_overlay, remove_overlays
from sysqcache.saved.qcow2snapshot import (
    DamagedImage,
    SnapshotSums,
    is_at_snapshot,
    snapshot_sums,
)
from sysqcache.saved.record import FileIdentity, Method, SavedDisk
from sysqcache.spec.spec import Disk

_GROWTH: Final = 1 << 30
"""Bytes that a file may grow by when it goes back to a snapshot; far more than that takes."""

_ONLY_LEAKS: Final = 3
"""Exit code of `qemu-img check`: clusters that nothing refers to, as a kill leaves them."""


def own_name(index: int) -> str:
    """Name of the machine's own disk number ``index``, in its instance and when saved."""
    return f"disk{index}.qcow2"


def freeze(
    disks: Sequence[Disk], overlays: Path, slot: Path, qemu_img: Path, *, tag: str = ""
) -> tuple[SavedDisk, ...]:
    """Take the disks of a machine that does not write any more into its saved directory.

    :param tag: of the snapshot that they hold, "" when memory is elsewhere.
    Raises OSError, :class:`DiskError` or :class:`SavedStateError`.
    """
    return tuple(
        _freeze(disk, overlays / own_name(i), slot / own_name(i), qemu_img, tag)
        for i, disk in enumerate(disks)
    )


def _freeze(disk: Disk, overlay: Path, own: Path, qemu_img: Path, tag: str) -> SavedDisk:
    file = disk.file
    is_own = disk.mode is DiskMode.EPHEMERAL
    if is_own:
        # the same file under a second name: the first goes with the machine
        link_or_copy(overlay, own)
        file = own
    holds = bool(tag) and disk.mode is not DiskMode.READ_ONLY
    chain = {path: FileIdentity.of(Path(path)) for path in _chain(file, qemu_img)}
    return SavedDisk(
        own=own.name if is_own else "",
        file=str(disk.file),
        format=str(disk.format),
        mode=str(disk.mode),
        checksum=file_checksum(file) if is_own and not tag else "",
        identity=FileIdentity.of(file),
        chain={path: one for path, one in chain.items() if path != str(own)},
        # who resumes a persistent disk after it was written to would lose that: no need to
        # know what it held
        snapshot=snapshot_sums(file, tag, data=is_own) if holds else None,
    )


def refresh(saved: Sequence[SavedDisk], slot: Path) -> tuple[SavedDisk, ...]:
    """The same disks as they are now that QEMU has ended. Raises OSError."""
    return tuple(
        dataclasses.replace(
            disk,
            identity=FileIdentity.of(slot / disk.own if disk.own else Path(disk.file)),
            chain={path: FileIdentity.of(Path(path)) for path in disk.chain},
        )
        for disk in saved
    )


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP):
            raise
        shutil.copyfile(source, target)


def _run_qemu_img(qemu_img: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(qemu_img), *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        stdin=subprocess.DEVNULL,
        check=False,
    )


def _chain(file: Path, qemu_img: Path) -> list[str]:
    """Paths of an image and of all that lies below it."""
    return [str(path) for one in _chain_info(file, qemu_img) for path in _files(one)]


def _chain_info(file: Path, qemu_img: Path) -> list[dict[str, Any]]:
    """What qemu-img says of an image and of those below it."""
    done = _run_qemu_img(qemu_img, "info", "-U", "--backing-chain", "--output=json", str(file))
    if done.returncode:
        raise DiskError(f"the disk image can't be read: {file}", detail=done.stderr.strip())
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def _files(image: dict[str, Any]) -> list[Path]:
    """An image and the other files that it keeps its data in."""
    path = Path(image["filename"]).absolute()
    data = image.get("format-specific", {}).get("data", {})
    named = [data["data-file"]] if "data-file" in data else []
    named += [extent["filename"] for extent in data.get("extents", ())]
    return [path, *(path.parent / name for name in named)]


def cover(disk: Disk, overlay: Path, qemu_img: Path) -> str:
    """Let writes to a qcow2 file go elsewhere, its own tables as well; QEMU's options for it.

    A QEMU that has the file open may go on. Raises :class:`DiskError`.
    """
    size = device_size(disk.file) if disk.device else disk.file.stat().st_size
    command = ["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", str(disk.file)]
    done = _run_qemu_img(qemu_img, *command, str(overlay), str(size + _GROWTH))
    if done.returncode:
        raise DiskError(f"no overlay over {disk.file}", detail=done.stderr.strip())
    over = Disk(overlay, DiskFormat.QCOW2, disk.mode)
    return (
        f",file.driver=qcow2{file_options('file.file', over)},file.backing.driver=raw"
        f"{file_options('file.backing.file', disk)},file.backing.file.locking=off"
        f",file.backing.read-only=on{_absolute_backing(disk.file, qemu_img)}"
    )


def _absolute_backing(file: Path, qemu_img: Path) -> str:
    """What an image lies over, where its name for that would be looked for beside the overlay."""
    image = _chain_info(file, qemu_img)[0]
    kind, below = image.get("backing-filename-format"), image.get("full-backing-filename")
    if not kind or not below or image["backing-filename"] == below:
        return ""
    device = Path(below).is_block_device()
    disk = Disk(Path(below), DiskFormat.RAW, DiskMode.READ_ONLY, device=device)
    return f",backing.driver={kind}{file_options('backing.file', disk)}"


def check(name: str, disk: SavedDisk, directory: Path, qemu_img: Path, *, tag: str = "") -> None:
    """Raise :class:`SavedStateError` unless a disk is as it was saved.

    :param tag: of the snapshot that it holds, which has to be what it was. The machine's own
        disk may have been written then by one that was resumed from it; another one may have
        been a QEMU's whose guest did not run.
    """
    file = directory / disk.own if disk.own else Path(disk.file)
    same_data = tag and disk.mode != DiskMode.READ_ONLY and _is_at_snapshot(file, tag)
    below = {path: one for path, one in disk.chain.items() if not same_data or path != str(file)}
    require_unchanged(name, below)
    try:
        same = FileIdentity.of(file) == disk.identity
        if tag and disk.mode != DiskMode.READ_ONLY:
            _check_snapshot(disk, file, tag, qemu_img, same=same)
        elif disk.own and not same and file_checksum(file) != disk.checksum:
            raise SavedStateError(f"its disk {file} is not what was saved")
    except FileNotFoundError:
        raise lost(name, file) from None
    except (SavedStateError, OSError) as error:
        raise SavedStateError(
            f"the saved machine {name} can't be resumed: {getattr(error, 'message', error)}",
            hint=afresh(name),
            detail=getattr(error, "detail", ""),
        ) from error


def _is_at_snapshot(file: Path, tag: str) -> bool:
    """Whether nothing would be lost if a disk went back to a snapshot.

    A QEMU changes the file that ends before its guest has run.
    """
    with contextlib.suppress(SavedStateError, OSError):
        return is_at_snapshot(file, tag)
    return False


def _check_snapshot(disk: SavedDisk, file: Path, tag: str, qemu_img: Path, *, same: bool) -> None:
    """The machine's state is always read; a disk that nobody touched is believed."""
    saved = disk.snapshot
    read_data = bool(saved and saved.data) and not same
    now = snapshot_sums(file, tag, data=read_data)
    if saved is not None:
        _require_equal(now, saved, file)
    if not same:
        _check_tables(file, qemu_img)


def _require_equal(now: SnapshotSums, saved: SnapshotSums, file: Path) -> None:
    if now.tables != saved.tables:
        raise SavedStateError(f"the tables of its snapshot in {file} are not what was saved")
    if now.state != saved.state:
        raise SavedStateError(f"its memory in {file} is not what was saved")
    if now.data and now.data != saved.data:
        raise SavedStateError(f"what its disk {file} held is not what was saved")


def _check_tables(file: Path, qemu_img: Path) -> None:
    """Going to a snapshot frees what the disk uses now: that must not be the snapshot's."""
    done = _run_qemu_img(qemu_img, "check", "-q", "-f", "qcow2", str(file))
    if done.returncode not in (0, _ONLY_LEAKS):
        raise DamagedImage(
            f"{file} is damaged: its tables contradict each other",
            detail=(done.stdout + done.stderr).strip(),
        )


def require_unchanged(name: str, files: Mapping[str, FileIdentity]) -> None:
    """Raise :class:`SavedStateError` unless all files are what they were."""
    for path, identity in files.items():
        _require_same(name, Path(path), identity)


def _require_same(name: str, path: Path, identity: FileIdentity) -> None:
    try:
        now = FileIdentity.of(path)
    except (FileNotFoundError, NotADirectoryError):
        raise lost(name, path) from None
    except OSError as error:
        raise SavedStateError(
            f"the saved machine {name} can't be resumed: {path} can't be asked whether it was "
            f"changed: {error.strerror}",
            hint=afresh(name),
        ) from None
    if now != identity:
        was = "was changed since it was saved"
        if now.device:
            was = "is a device that was written to, or came up anew, since it was saved"
        raise SavedStateError(
            f"the saved machine {name} can't be resumed: {path} {was}",
            hint=f"its memory does not fit the disk any more; {afresh(name)}",
        )


def afresh(name: str) -> str:
    """The ways out for a saved machine that can't be resumed."""
    return f"sysqcache boot starts it afresh, sysqcache snapshot delete {name} forgets it"


def lost(name: str, path: Path) -> SavedStateError:
    """The error for a file of a saved machine that is not there."""
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
        file = Path(disk.file)
        return Disk(file, DiskFormat(disk.format), mode, device=file.is_block_device())
    if method is Method.INTERNAL:
        link_or_copy(own, overlay)
    else:
        create_overlay(own, DiskFormat.QCOW2, overlay, qemu_img)
    return Disk(overlay, DiskFormat.QCOW2, mode)
