# SPDX-License-Identifier: GPL-2.0-or-later
"""Has the helper read what an image's own reader can't: :data:`volume.OtherReader`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Final

from sysqcache.attribution.imagescan.partitions import HOLD_NO_CODE, Partition, identify
from sysqcache.attribution.imagescan.volume import Unread
from sysqcache.base.errors import ImageMissing, SysqcacheError
from sysqcache.machine.helper import template
from sysqcache.machine.helper.channel import Channel, HelperError, RefusedError
from sysqcache.machine.helper.mounts import GROUP, KINDS, PACKED_IN, PACKED_ROOTS, MountKind
from sysqcache.machine.helper.remote import Line, RemoteFile, RemoteVolume
from sysqcache.machine.launch.argv import escape
from sysqcache.spec import catalog
from sysqcache.spec.engines import find_engine
from sysqcache.spec.spec import Disk

DISKS: Final = 16
"""Most that are attached: each takes a place on the helper's bus."""

_VOLUMES: Final = 64
_ROOT_NAMES: Final = frozenset({"usr", "etc", "bin", "boot", "lib"})
_GROUP_SECONDS: Final = 20.0
_DEVICE: Final = re.compile(r"^([a-z0-9-]+) ([0-9]{1,18}) ([A-Za-z0-9+_.-]*)$", re.M)
"""Names of volume groups and logical volumes are made of these characters."""


class Visit:
    """Implements :class:`volume.Opened`. The helper runs until this is closed."""

    def __init__(self) -> None:
        self.volumes: list[RemoteVolume] = []
        self.notes: list[str] = []
        self._stack = contextlib.ExitStack()
        self._line: Line | None = None
        self._fault = ""

    @property
    def fault(self) -> str:
        """Why it did not read all that it might another time, "" when all is well so far."""
        reason = self._fault or (self._line.fault if self._line else "")
        return f"the helper that reads other file systems failed: {reason}" if reason else ""

    def open(self, disks: Sequence[Disk], unread: Sequence[Unread]) -> None:
        """Start the helper and mount what can be. Raises nothing for what a disk holds."""
        try:
            self._open(disks, unread)
        except (HelperError, OSError) as error:
            self._fault = str(error)
        except SysqcacheError as error:
            self._fault = error.message

    def _open(self, disks: Sequence[Disk], unread: Sequence[Unread]) -> None:
        try:
            image = catalog.resolve(catalog.HELPER)
        except ImageMissing:
            what = ", ".join(f"{one.origin}: {one.why}" for one in unread if _matters(one))
            if what:
                self.notes.append(f"{what} without: sysqcache image build {catalog.HELPER}")
            return
        helper = template.Helper(image, find_engine("x86_64"))
        used = sorted({one.disk for one in unread})[:DISKS]
        devices = [word for number in used for word in _disk_args(number, disks[number])]
        _, channel = self._stack.enter_context(template.resumed(helper, *devices))
        self._line = Line(channel)
        found = channel.ask(b"D", bytes([len(used)]))
        names = {number: f"vd{chr(ord('a') + place)}" for place, number in enumerate(used)}
        self._mount_all(channel, unread, names, found)

    def _mount_all(
        self, channel: Channel, unread: Sequence[Unread], names: dict[int, str], found: bytes
    ) -> None:
        """Mount partitions, then what volume groups hold.

        :param names: the helper's devices of disks.
        :param found: its block devices.
        """
        sizes = {device: size for device, size, _ in _devices(found)}
        for one in unread:
            if one.kind == GROUP:
                continue
            device = _device(names.get(one.disk, ""), one.partition)
            if one.kind not in KINDS or device not in sizes:
                self._left_out(one.origin, one.kind, one.why)
            else:
                self._mount(channel, one.origin, one.kind, device)
        if any(one.kind == GROUP for one in unread):
            self._mount_groups(channel)

    def _mount_groups(self, channel: Channel) -> None:
        assert self._line is not None
        volumes = _devices(channel.ask(b"V", seconds=_GROUP_SECONDS))
        for device, size, label in volumes:
            if not device.startswith("dm-"):
                continue
            origin = f"lvm:{label}"
            content = RemoteFile(self._line, f"/dev/{device}", size)
            kind = identify(content, Partition(0, 0, size))
            if kind in KINDS:
                self._mount(channel, origin, kind, device)
            else:
                self._left_out(origin, kind, f"{kind or 'what it holds'} can't be read")
        if not any(device.startswith("dm-") for device, _, _ in volumes):
            self.notes.append("LVM: no volume group is complete")

    def _left_out(self, origin: str, kind: str, why: str) -> None:
        if kind not in HOLD_NO_CODE:
            self.notes.append(f"{origin}: {why}")

    def _mount(self, channel: Channel, origin: str, kind: str, device: str) -> None:
        """Mount a device of the helper's; what can't be is a note."""
        root = self._next_root()
        how = KINDS[kind]
        try:
            channel.ask(b"M", how.name, f"/dev/{device}", how.options, root)
        except RefusedError as error:
            self._left_out(origin, kind, f"{kind} {error}")
            return
        self._add(origin, root, kind)
        if kind in PACKED_IN:
            self._mount_packed(channel, origin, root)

    def _mount_packed(self, channel: Channel, origin: str, below: str) -> None:
        """Mount images of whole systems that a file system has as files."""
        for path in PACKED_ROOTS:
            for how in (MountKind("squashfs"), MountKind("ext4")):
                root = self._next_root()
                with contextlib.suppress(RefusedError):
                    channel.ask(b"L", below + path, root, how.name)
                    self._add(f"{origin}{path}", root, how.name)
                    break

    def _next_root(self) -> str:
        if len(self.volumes) >= _VOLUMES:
            raise HelperError("there are too many file systems")
        return f"/mnt/{len(self.volumes)}"

    def _add(self, origin: str, root: str, kind: str) -> None:
        """A mounted file system; of btrfs each of its subvolumes that may be a root."""
        assert self._line is not None
        volume = RemoteVolume(origin, root, self._line)
        names = volume.names("") if kind == "btrfs" else []
        if kind != "btrfs" or _ROOT_NAMES & set(names):
            self.volumes.append(volume)
            return
        for name in names[: _VOLUMES - len(self.volumes)]:
            self.volumes.append(RemoteVolume(f"{origin}/{name}", f"{root}/{name}", self._line))

    def close(self) -> None:
        """End the helper."""
        self._stack.close()


def visit(disks: Sequence[Disk], unread: Sequence[Unread]) -> Visit:
    """Read parts of a machine's disks; see :data:`volume.OtherReader`."""
    found = Visit()
    found.open(disks, unread)
    return found


def _matters(one: Unread) -> bool:
    return one.kind not in HOLD_NO_CODE


def _disk_args(number: int, disk: Disk) -> list[str]:
    """A disk of another machine, which may run: read-only, and without a lock on the file."""
    driver = "host_device" if disk.device else "file"
    node = f"driver={disk.format},node-name=disk{number},read-only=on,force-share=on"
    node += f",file.driver={driver},file.filename={escape(disk.file)}"
    return ["-blockdev", node, "-device", f"virtio-blk-pci,drive=disk{number}"]


def _devices(answer: bytes) -> list[tuple[str, int, str]]:
    """Name, bytes and label of the helper's block devices; lines of no sense are left out."""
    rows = _DEVICE.findall(answer.decode("utf-8", "replace"))
    return [(name, int(size), label) for name, size, label in rows]


def _device(disk: str, partition: int) -> str:
    """The helper's name of a partition, such as "vda1"."""
    return f"{disk}{partition}" if partition else disk
