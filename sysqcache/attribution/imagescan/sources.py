# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of a machine that hold code, opened when they are asked for."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import xxhash

from sysqcache.attribution.imagescan import limits
from sysqcache.attribution.imagescan.diskimage import Image, open_image
from sysqcache.attribution.imagescan.ext import ExtFileSystem
from sysqcache.attribution.imagescan.extmap import DamagedFileSystem
from sysqcache.attribution.imagescan.extvolume import ExtVolume
from sysqcache.attribution.imagescan.initrd import Archive, read_archive
from sysqcache.attribution.imagescan.kernelfile import KernelFile, read_kernel
from sysqcache.attribution.imagescan.partitions import (
    HOLD_NO_CODE,
    identify,
    is_blank,
    mark,
    partitions,
)
from sysqcache.attribution.imagescan.volume import Opened, OtherReader, Unread, Volume
from sysqcache.base import paths
from sysqcache.base.devices import device_size, device_state
from sysqcache.base.errors import SetupError
from sysqcache.base.types import DiskFormat
from sysqcache.formats.access import UnreadableImage
from sysqcache.formats.modules import Module, ModuleKind
from sysqcache.spec import catalog
from sysqcache.spec.engines import any_qemu_img
from sysqcache.spec.spec import MachineSpec

NOTHING: Final = Archive(b"", (), ())


Identity = tuple[str, int, int, int]
"""Path, size in bytes, time of the last change in ns, inode number of a file."""


def identity(path: Path) -> Identity:
    """What changes when a file or device is written; -1 for what can't be asked."""
    try:
        if device := device_state(path):
            return str(path), device_size(path), xxhash.xxh3_64_intdigest(device), 0
        info = path.stat()
    except OSError:
        return str(path), -1, -1, -1
    return str(path), info.st_size, info.st_mtime_ns, info.st_ino


class Sources:
    """Disks, initrd and kernel of a machine. Everything is opened once, when it is used."""

    def __init__(
        self,
        spec: MachineSpec,
        qemu_img: Path | None = None,
        others: OtherReader | None = None,
    ) -> None:
        self.spec = spec
        self._qemu_img = qemu_img
        self._others = others
        self._opened: Opened | None = None
        self._unread: list[Unread] = []
        self._images: list[Image] = []
        self.notes: list[str] = []
        self.identities: list[Identity] = []
        """Of all files that were read, those behind an overlay included."""
        self.first_disk: Module | None = None
        """What stands for the first disk, and for its copies; known when volumes are."""
        self.complete = True
        """Whether all files could be opened; what could not may work the next time."""
        for path in (spec.kernel, spec.initrd):
            self._note_identity(path)

    @functools.cached_property
    def volumes(self) -> dict[str, Volume]:
        """The file systems that can be read, by origin."""
        found = [v for number in range(len(self.spec.disks)) for v in self._disk(number)]
        everything = (*found, *self._read_by_others(found))
        return {volume.origin: volume for volume in everything}

    def _read_by_others(self, found: Sequence[ExtVolume]) -> Sequence[Volume]:
        """What is not read here: all of it at once, as it may belong together.

        FAT holds nothing but kernels, so it is of no interest where one was found.
        """
        known = self.spec.kernel is not None or any(volume.has_kernel() for volume in found)
        unread = [one for one in self._unread if not known or one.kind not in HOLD_NO_CODE]
        wanted = [one for one in unread if one.kind not in HOLD_NO_CODE]
        if not unread:
            return ()
        # whether it is there decides what is found
        self._note_identity(paths.images_dir() / catalog.HELPER / catalog.META)
        if self._others is None:
            self.notes += [f"{one.origin}: {one.why}" for one in wanted]
            return ()
        self._opened = self._others(self.spec.disks, unread)
        self.notes += self._opened.notes
        return self._opened.volumes

    @property
    def fault(self) -> str:
        """Why others did not read all that they might another time, "" when all is well."""
        return "" if self._opened is None else self._opened.fault

    def _disk(self, number: int) -> list[ExtVolume]:
        disk = self.spec.disks[number]
        self._note_identity(disk.file)
        try:
            image = open_image(disk.file, disk.format, self._tool(disk.format))
        except UnreadableImage as error:
            self.notes.append(str(error))
            self.complete = False
            return []
        self._images.append(image)
        for path in image.files:
            self._note_identity(path)
        if number == 0 and (found := mark(image.blocks)):
            name = disk.file.parent.name if disk.file.name == catalog.DISK else disk.file.name
            self.first_disk = Module(ModuleKind.UNKNOWN, f"disk:{found}", name)
        return self._volumes(image, number)

    def _note_identity(self, path: Path | None) -> None:
        """Before the file is read, so that a change meanwhile is seen the next time."""
        if path is not None and all(str(path) != known[0] for known in self.identities):
            self.identities.append(identity(path))

    def _tool(self, kind: DiskFormat) -> Path | None:
        if kind is DiskFormat.RAW or self._qemu_img is not None:
            return self._qemu_img
        try:
            self._qemu_img = any_qemu_img()
        except SetupError:
            return None
        return self._qemu_img

    def _volumes(self, image: Image, disk: int) -> list[ExtVolume]:
        found: list[ExtVolume] = []
        for partition in partitions(image.blocks):
            kind = identify(image.blocks, partition)
            one = Unread(disk, partition.number, kind, f"{kind} can't be read")
            if kind == "ext":
                try:
                    files = ExtFileSystem(image.blocks, partition.start)
                except DamagedFileSystem as error:
                    self._unread.append(dataclasses.replace(one, why=str(error)))
                    continue
                if files.unclean:
                    self.notes.append(f"{one.origin}: was not unmounted, new files may be missing")
                found.append(ExtVolume(one.origin, files))
            elif kind and kind != "swap":
                self._unread.append(one)
            elif not kind and partition.number == 0 and not is_blank(image.blocks, partition):
                self.notes.append(f"{one.origin}: no file system and no partitions that are known")
        return found

    @functools.cached_property
    def initrd(self) -> Archive:
        """The initial RAM disk, unpacked; empty when the machine has none."""
        content = self._read(self.spec.initrd, limits.ARCHIVE_BYTES)
        return read_archive(content) if content else NOTHING

    @functools.cached_property
    def kernel(self) -> KernelFile | None:
        """The machine's kernel file; None when it boots from a disk."""
        content = self._read(self.spec.kernel, limits.KERNEL_BYTES)
        if not content or self.spec.kernel is None:
            return None
        kernel = read_kernel(content)
        if kernel.module.name:
            return kernel
        named = dataclasses.replace(kernel.module, name=self.spec.kernel.name)
        return dataclasses.replace(kernel, module=named)

    def _read(self, path: Path | None, most: int) -> bytes:
        if path is None:
            return b""
        try:
            with path.open("rb") as file:
                content = file.read(most + 1)
        except OSError as error:
            self.notes.append(f"{path} can't be read: {error.strerror}")
            self.complete = False
            return b""
        if len(content) > most:
            self.notes.append(f"{path} is too large")
            return b""
        return content

    def close(self) -> None:
        """Close all files. What is asked for afterwards is empty."""
        if self._opened is not None:
            self._opened.close()
        for image in self._images:
            image.blocks.close()
        self._images.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
