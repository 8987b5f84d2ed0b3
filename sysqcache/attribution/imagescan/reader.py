# SPDX-License-Identifier: GPL-2.0-or-later
"""The contents of an image, with the bytes behind them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Final, Self

from sysqcache.attribution.imagescan.codefile import unpacked_module
from sysqcache.attribution.imagescan.contents import INITRD, CodeFile, Found
from sysqcache.attribution.imagescan.extmap import DamagedFileSystem
from sysqcache.attribution.imagescan.kernelfile import KernelFile, read_kernel
from sysqcache.attribution.imagescan.kernelplaces import kernel_bytes
from sysqcache.attribution.imagescan.sources import Sources
from sysqcache.attribution.imagescan.unpack import PackedDataError
from sysqcache.formats.access import MemoryAccess, RandomAccess
from sysqcache.formats.modules import Module, ModuleKind

PAGE: Final = 4096
_CHUNK: Final = 1 << 20
_NOTHING: Final = MemoryAccess(b"")


class ImageContents:
    """Code files of a machine's image and their bytes; files are opened when needed.

    Bytes that can't be had are missing from the end of what is returned: nothing here
    raises for what is in an image.
    """

    def __init__(self, found: Found, sources: Sources) -> None:
        self.found = found
        self._sources = sources

    @property
    def files(self) -> tuple[CodeFile, ...]:
        """All code files; a file with several names is listed under each."""
        return self.found.files

    @property
    def kernel(self) -> Module | None:
        """The kernel that the machine boots; None when a disk decides."""
        return self.found.kernel

    @property
    def firmware_alone(self) -> bool:
        """Whether nothing is there that the firmware could start."""
        spec = self._sources.spec
        return not (spec.kernel or spec.disks or spec.qemu_args)

    @property
    def notes(self) -> tuple[str, ...]:
        """In words, what could not be read."""
        return self.found.notes

    @functools.cached_property
    def by_module(self) -> dict[Module, CodeFile]:
        """One file of each module, the one on the first disk before others."""
        return {file.module: file for file in reversed(self.files)}

    def open(self, file: CodeFile) -> RandomAccess:
        """The bytes of a code file; those of a packed kernel module unpacked."""
        raw = self._raw(file)
        if file.module.kind is ModuleKind.KERNEL_MODULE:
            try:
                return unpacked_module(raw, file.path)
            except PackedDataError:
                return _NOTHING
        return raw

    def _raw(self, file: CodeFile) -> RandomAccess:
        if file.origin == INITRD:
            content = memoryview(self._sources.initrd.content)
            return MemoryAccess(content[file.place : file.place + file.size])
        volume = self._sources.volumes.get(file.origin)
        if volume is None:
            return _NOTHING
        try:
            return volume.open(file.path, file.place)
        except DamagedFileSystem:
            return _NOTHING

    def code_pages(self, files: Iterable[CodeFile]) -> Iterator[tuple[CodeFile, int, bytes]]:
        """File, offset in the file and 4096 bytes of each page with executable bytes.

        Pages are aligned in the file, as they are in memory; what is behind the file's
        end is zero, as in the guest's page cache.
        """
        for file in files:
            blocks = self.open(file)
            done = 0
            for segment in sorted(file.segments, key=lambda segment: segment.offset):
                start = max(done, segment.offset & -PAGE)
                end = -(-(segment.offset + segment.size) // PAGE) * PAGE
                for offset, page in _pages(blocks, start, end):
                    yield file, offset, page
                done = max(done, end)

    def kernel_file(self, module: Module) -> KernelFile | None:
        """A kernel of the image, the machine's own or one in /boot; None if there is none."""
        if module == self.kernel:
            return self._sources.kernel
        for file in self.files:
            if file.module == module and module.kind is ModuleKind.KERNEL:
                return read_kernel(kernel_bytes(self._whole(file)))
        return None

    def _whole(self, file: CodeFile) -> bytes:
        return self.open(file).read(0, file.size)

    def read_file(self, path: str, most: int) -> bytes:
        """A file of any disk by its path, b"" when there is none; links are not followed."""
        for volume in self._sources.volumes.values():
            if content := volume.read(path, most):
                return content
        return b""

    def close(self) -> None:
        """Close all files."""
        self._sources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pages(blocks: RandomAccess, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Pages from ``start`` to ``end``, both aligned; it ends where the file does."""
    for chunk in range(start, min(end, blocks.size), _CHUNK):
        content = blocks.read(chunk, min(_CHUNK, end - chunk))
        content += bytes(-len(content) % PAGE)
        for place in range(0, len(content), PAGE):
            yield chunk + place, content[place : place + PAGE]
