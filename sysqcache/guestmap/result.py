# SPDX-License-Identifier: GPL-2.0-or-later
"""What a map of a guest consists of: plain values, without a trace of drgn."""

from __future__ import annotations

import dataclasses
from typing import Any

from sysqcache.guestmap.table import OwnerKind, OwnerTable


def _named(one: object, *names: str) -> dict[str, Any]:
    """Some fields as JSON values."""
    values = {name: getattr(one, name) for name in names}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class KernelInfo:
    """The guest's kernel; all zeros and empty when none was found.

    ``text`` and ``init_text`` are virtual addresses, start and end, ``base`` is the
    virtual address of the image's first byte (``_text`` but on RISC-V) and ``physical``
    where that lies; offsets of the kernel's code in the table count from there.
    """

    release: str = ""
    build_id: str = ""
    text: tuple[int, int] = (0, 0)
    init_text: tuple[int, int] = (0, 0)
    kaslr_offset: int = 0
    base: int = 0
    end: int = 0
    physical: int = 0

    def to_json(self) -> dict[str, Any]:
        """As in the JSON of `map`."""
        return _named(self, "release", "build_id", "text", "init_text", "kaslr_offset")


@dataclasses.dataclass(frozen=True, slots=True)
class KernelModule:
    """A loaded module.

    ``start`` is where its code begins and ``size`` all of its memory, as /proc/modules
    shows them. ``text`` are (start, end) of its code, ``init_text`` of code that the
    kernel frees after loading. ``sections`` are virtual addresses by name.
    """

    name: str
    start: int
    size: int
    build_id: str
    text: tuple[int, int] = (0, 0)
    init_text: tuple[int, int] = (0, 0)
    memory: tuple[tuple[int, int], ...] = ()
    sections: tuple[tuple[str, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As in the JSON of `map`."""
        return _named(self, "name", "start", "size", "build_id", "text")


@dataclasses.dataclass(frozen=True, slots=True)
class Mapping:
    """One mapping of a process, as a line of /proc/PID/maps; ``file`` is its inode's address."""

    start: int
    end: int
    perms: str
    offset: int
    inode: int
    path: str
    build_id: str = ""
    file: int = 0

    def to_json(self) -> dict[str, Any]:
        """As in the JSON of `map`."""
        return _named(self, "start", "end", "perms", "offset", "inode", "path", "build_id")


@dataclasses.dataclass(frozen=True, slots=True)
class Process:
    """A process; kernel threads have no mappings."""

    pid: int
    comm: str
    maps: tuple[Mapping, ...]

    def to_json(self) -> dict[str, Any]:
        """As in the JSON of `map`."""
        return {"pid": self.pid, "comm": self.comm, "maps": [m.to_json() for m in self.maps]}


@dataclasses.dataclass(frozen=True, slots=True)
class GuestMap:
    """All that was found. ``note`` says in words what was not, "" when nothing lacks.

    ``unknown`` names a kernel whose structures are not known, and what that costs.
    """

    kernel: KernelInfo
    modules: tuple[KernelModule, ...]
    processes: tuple[Process, ...]
    table: OwnerTable
    took_s: float
    paused_ms: float
    note: str = ""
    unknown: str = ""

    def to_json(self) -> dict[str, Any]:
        """The JSON of `map`."""
        counts = self.table.counts()
        return {
            "kernel": self.kernel.to_json(),
            "kernel_modules": [module.to_json() for module in self.modules],
            "processes": [process.to_json() for process in self.processes],
            "pages": {str(kind): counts[kind] for kind in OwnerKind},
            "took_s": round(self.took_s, 4),
            "paused_ms": round(self.paused_ms, 2),
            "note": self.note,
        }
