# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the disks of a machine have kernels: boot directories, modules, entries, EFI programs."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from typing import Final

from sysqcache.attribution.imagescan import limits
from sysqcache.attribution.imagescan.volume import FoundFile, Volume

KERNEL_DIRECTORIES: Final = ("", "/boot")
"""Of a root file system, and of one that is mounted on its /boot."""

MODULES: Final = "/usr/lib/modules"

_NAMED: Final = re.compile(r"(/boot/(.*/)?|/)(vmlinu[xz]|bzImage)-[^/]+")
_BESIDE_MODULES: Final = re.compile(r"(/usr)?/lib/modules/[^/]+/vmlinu[xz]")
_UNIFIED: Final = re.compile(r"(/boot|/efi|/boot/efi)?/EFI/Linux/[^/]+\.efi", re.IGNORECASE)
_NAMELESS: Final = "/linux"
"""A kernel that only an entry tells of: kernel-install names it so."""

_ENTRY: Final = re.compile(r"(/boot|/efi|/boot/efi)?/loader/entries/[^/]+\.conf", re.IGNORECASE)
_ENTRY_NAMES: Final = re.compile(rb"^\s*(?:linux|efi|uki)\s+(\S+)\s*$", re.MULTILINE)

_PE_SECTION: Final = struct.Struct("<8sIIII16x")
_PE_SECTIONS: Final = 96
"""Most that PE allows."""


def is_kernel(path: str) -> bool:
    """Whether a file of a disk is a kernel, as distributions name them."""
    return bool(
        _NAMED.fullmatch(path) or _BESIDE_MODULES.fullmatch(path) or _UNIFIED.fullmatch(path)
    )


def may_matter(path: str) -> bool:
    """Whether a file is a kernel, or may lead to one."""
    return path.endswith(_NAMELESS) or is_kernel(path) or bool(_ENTRY.fullmatch(path))


class KernelFinder:
    """The kernels of a file system, while its files are walked over."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._kernels: list[FoundFile] = []
        self._entries: list[FoundFile] = []
        self._nameless: dict[str, FoundFile] = {}

    def takes(self, file: FoundFile) -> bool:
        """Whether a file is a kernel by its name alone."""
        if is_kernel(file.path):
            self._kernels.append(file)
            return True
        if file.path.endswith(_NAMELESS):
            self._nameless[file.path] = file
        elif _ENTRY.fullmatch(file.path) and len(self._entries) < limits.BOOT_ENTRIES:
            self._entries.append(file)
        return False

    def kernels(self) -> Iterator[FoundFile]:
        """All that were found, when all files were seen."""
        yield from self._kernels
        for entry in self._entries:
            content = self._volume.read(entry.path, limits.BOOT_ENTRY_BYTES)
            for path in _named_by(content, entry.path):
                if file := self._nameless.pop(path, None):
                    yield file


def _named_by(entry: bytes, path: str) -> list[str]:
    """Paths of the kernels that an entry names, in the file system where it lies.

    Entries are those of boot loaders (UAPI.1, the Boot Loader Specification).

    :param path: the entry's own: names in it count from where its file system is mounted.
    """
    base = path.lower().partition("/loader/entries/")[0]
    names = (name.decode("utf-8", "replace") for name in _ENTRY_NAMES.findall(entry))
    return [f"{path[: len(base)]}/{name.lstrip('/')}" for name in names]


def kernel_bytes(file: bytes) -> bytes:
    """The kernel file in a unified kernel image (UAPI.5); any other file is its own.

    Such an image is an EFI program with the kernel in its section ``.linux``.
    """
    for name, start, size in _pe_sections(file):
        if name == b".linux":
            return file[start : start + size]
    return file


def _pe_sections(file: bytes) -> Iterable[tuple[bytes, int, int]]:
    """Name, first byte and bytes of the sections of a PE file; none of any other file."""
    if file[:2] != b"MZ" or len(file) < 0x40:
        return
    (header,) = struct.unpack_from("<I", file, 0x3C)
    if file[header : header + 4] != b"PE\0\0" or len(file) < header + 24:
        return
    count, optional = struct.unpack_from("<H12xH", file, header + 6)
    place = header + 24 + optional
    for _ in range(min(count, _PE_SECTIONS)):
        if place + _PE_SECTION.size > len(file):
            return
        name, virtual, _, raw, start = _PE_SECTION.unpack_from(file, place)
        yield name.rstrip(b"\0"), start, min(virtual, raw)
        place += _PE_SECTION.size
