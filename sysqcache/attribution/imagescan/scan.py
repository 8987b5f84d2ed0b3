# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine's files become a list of its code."""

from __future__ import annotations

import concurrent.futures
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import xxhash

from sysqcache.attribution.imagescan import keep, limits
from sysqcache.attribution.imagescan.codefile import Classifier, may_be_code
from sysqcache.attribution.imagescan.contents import INITRD, CodeFile, Found
from sysqcache.attribution.imagescan.extmap import DamagedFileSystem
from sysqcache.attribution.imagescan.initrd import Archive
from sysqcache.attribution.imagescan.kernelfile import read_kernel
from sysqcache.attribution.imagescan.kernelplaces import KernelFinder, kernel_bytes
from sysqcache.attribution.imagescan.reader import ImageContents
from sysqcache.attribution.imagescan.sources import Identity, Sources, identity
from sysqcache.attribution.imagescan.volume import FoundFile, OtherReader, Volume
from sysqcache.base.statefile import DAMAGED_JSON
from sysqcache.formats.access import MemoryAccess
from sysqcache.formats.modules import Module
from sysqcache.spec.spec import MachineSpec

KEPT: Final = "contents"
_VERSION: Final = 3


def scan(
    spec: MachineSpec,
    *,
    others: OtherReader | None = None,
    qemu_img: Path | None = None,
    fresh: bool = False,
) -> ImageContents:
    """What code a machine's image holds. Never raises for what is in the image.

    The answer is kept, and used again as long as size, times and inode numbers of all
    files are the same; one that lacks something for want of time or of a tool is not.
    Close the result when its bytes are not needed any more.

    :param others: reads the file systems that are not read here.
    :param qemu_img: the tool for qcow2 images; by default the one of any built engine.
    :param fresh: do not believe what was kept.
    """
    sources = Sources(spec, qemu_img, others)
    name = _name(spec)
    found = None if fresh else _load(name)
    if found is None:
        found = _Scan(sources).found()
        if sources.complete:
            _save(name, found, sources.identities)
    return ImageContents(found, sources)


def _name(spec: MachineSpec) -> str:
    """The name of what is kept of a machine: which files it has, not what is in them."""
    disks = [[str(disk.file), str(disk.format)] for disk in spec.disks]
    value = [_VERSION, disks, str(spec.initrd), str(spec.kernel)]
    return f"{xxhash.xxh3_128_hexdigest(json.dumps(value))}.json"


def _load(name: str) -> Found | None:
    content = keep.load(KEPT, name)
    if content is None:
        return None
    try:
        value = json.loads(bytes(content))
        if any(identity(Path(entry[0])) != tuple(entry) for entry in value["identity"]):
            return None
        return Found.from_json(value["found"])
    except DAMAGED_JSON:
        return None


def _save(name: str, found: Found, identities: list[Identity]) -> None:
    value = {"identity": identities, "found": found.to_json()}
    keep.save(KEPT, name, json.dumps(value).encode())


class _Scan:
    """One scan: walks everything, within a time."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._end = time.monotonic() + limits.SCAN_SECONDS
        self._files: list[CodeFile] = []
        self._notes: list[str] = []
        self._classifier = Classifier()
        self._full = False
        self._unreadable = 0

    def found(self) -> Found:
        """Everything that can be found."""
        with concurrent.futures.ThreadPoolExecutor(1) as other:
            # unpacking happens outside of Python's lock
            packed = other.submit(self._packed)
            volumes = self._sources.volumes.values()
            # whoever opens them has limits of its own
            self._end = time.monotonic() + limits.SCAN_SECONDS
            for volume in volumes:
                self._walk(volume)
            kernel = packed.result()
        self._archive(self._sources.initrd)
        notes = tuple(self._all_notes())
        return Found(tuple(self._files), kernel, notes, self._sources.first_disk)

    def _packed(self) -> Module | None:
        """Unpack the initrd and the kernel."""
        kernel = self._sources.kernel
        _ = self._sources.initrd
        if kernel is None:
            return None
        if kernel.note:
            self._notes.append(kernel.note)
        return kernel.module

    def _all_notes(self) -> Iterator[str]:
        yield from self._sources.notes
        if self._sources.fault:
            self._sources.complete = False
            yield self._sources.fault
        yield from self._sources.initrd.notes
        yield from self._notes
        if self._unreadable:
            yield f"{self._unreadable} files can't be read"
        if self._classifier.skipped:
            yield f"{self._classifier.skipped} files without a build id are too large"

    def _add(self, file: CodeFile | None) -> None:
        if file is not None:
            self._files.append(file)

    def _out_of_bounds(self, origin: str) -> bool:
        """Whether to stop here; says so once."""
        if not self._full and time.monotonic() > self._end:
            self._full = True
            self._sources.complete = False
            self._notes.append(f"{origin}: reading took too long, the rest is left out")
        if not self._full and len(self._files) >= limits.CODE_FILES:
            self._full = True
            self._notes.append(f"{origin}: too many code files, the rest is left out")
        return self._full

    def _archive(self, archive: Archive) -> None:
        content = memoryview(archive.content)
        for entry in archive.entries:
            if self._out_of_bounds(INITRD):
                return
            if may_be_code(entry.path, entry.mode):
                file = MemoryAccess(content[entry.offset : entry.offset + entry.size])
                self._add(self._classifier.code_file(file, entry.path, INITRD, entry.offset))

    def _walk(self, volume: Volume) -> None:
        walk = volume.walk()
        finder = KernelFinder(volume)
        for file in walk:
            if self._out_of_bounds(volume.origin):
                break
            if self._sources.spec.kernel is None and finder.takes(file):
                continue
            if may_be_code(file.path.rpartition("/")[2], file.mode):
                self._code(volume, file)
        for file in finder.kernels():
            self._kernel(volume, file)
        if walk.damaged:
            self._notes.append(f"{volume.origin}: {walk.damaged} damaged places, {walk.note}")

    def _code(self, volume: Volume, found: FoundFile) -> None:
        try:
            file = volume.open(found.path, found.place)
        except DamagedFileSystem:
            self._unreadable += 1
            return
        self._add(self._classifier.code_file(file, found.path, volume.origin, found.place))

    def _kernel(self, volume: Volume, found: FoundFile) -> None:
        """A kernel that the disk's boot loader starts."""
        try:
            file = volume.open(found.path, found.place)
        except DamagedFileSystem:
            return
        if file.size > limits.KERNEL_BYTES:
            return
        kernel = read_kernel(kernel_bytes(file.read(0, file.size)))
        if kernel.note:
            self._notes.append(f"{volume.origin}: {found.path}: {kernel.note}")
        self._add(CodeFile(kernel.module, found.path, file.size, volume.origin, found.place))
