# SPDX-License-Identifier: GPL-2.0-or-later
"""What a machine's image holds, as values: code files and where their bytes are."""

from __future__ import annotations

import dataclasses
from typing import Any, Final, Self

from sysqcache.formats.elf import Segment
from sysqcache.formats.modules import Module, ModuleKind

INITRD: Final = "initrd"

_KINDS: Final = {str(kind): kind for kind in ModuleKind}


@dataclasses.dataclass(frozen=True, slots=True)
class CodeFile:
    """A file with code.

    :param module: what its translations belong to.
    :param path: its name in the guest, absolute; in the initrd, the one in the archive.
    :param size: bytes of the file as the guest sees it; of a packed kernel module, packed.
    :param origin: ``disk0:1`` for the first partition of the first disk, ``disk0:0`` for
        a disk without partitions, ``lvm:GROUP-VOLUME``, ``initrd``; a path behind it names a
        part of a file system that is a root of its own.
    :param place: inode number, or where the file begins in the unpacked initrd; 0 where the
        path alone leads to it.
    :param segments: executable parts; none for kernels and kernel modules, whose code
        lies elsewhere in memory than in the file.
    """

    module: Module
    path: str
    size: int
    origin: str
    place: int
    segments: tuple[Segment, ...] = ()

    def to_json(self) -> list[Any]:
        """The fields as JSON values, short: there are thousands."""
        segments = [(part.offset, part.size, part.address) for part in self.segments]
        where = [self.path, self.size, self.origin, self.place]
        return [str(self.module.kind), self.module.id, self.module.name, *where, segments]

    @classmethod
    def from_json(cls, value: list[Any]) -> Self:
        """The inverse, for files of ours; raises KeyError, TypeError or ValueError."""
        kind, identity, name, path, size, origin, place, segments = value
        code = tuple([Segment(*segment) for segment in segments])
        return cls(Module(_KINDS[kind], identity, name), path, size, origin, place, code)


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What a scan found.

    :param files: code files of disks and initrd, kernels in /boot included.
    :param kernel: the kernel that the machine boots; None when a disk decides.
    :param notes: in words, what could not be read.
    :param disk: stands for the first disk and for its copies, None when nothing marks it.
    """

    files: tuple[CodeFile, ...]
    kernel: Module | None
    notes: tuple[str, ...]
    disk: Module | None = None

    @property
    def system(self) -> Module | None:
        """What the machine starts: code of a guest that nobody can look into is kept under it."""
        return self.kernel or self.disk

    def modules(self) -> frozenset[Module]:
        """All modules, each once, and what the machine starts."""
        system = frozenset((self.system,)) if self.system else frozenset()
        return frozenset(file.module for file in self.files) | system

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "files": [file.to_json() for file in self.files],
            "kernel": self.kernel.to_json() if self.kernel else None,
            "notes": list(self.notes),
            "disk": self.disk.to_json() if self.disk else None,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse; raises KeyError, TypeError or ValueError."""
        kernel, disk = (
            Module.from_json(value[name]) if value[name] else None for name in ("kernel", "disk")
        )
        files = tuple(CodeFile.from_json(file) for file in value["files"])
        return cls(files, kernel, tuple(str(note) for note in value["notes"]), disk)
