# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of the pieces of guest code that translations belong to."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, Final, Self


class ModuleKind(enum.StrEnum):
    """Kinds of modules; those of the second half have no bytes of their own to compare."""

    FILE = "file"
    KERNEL = "kernel"
    KERNEL_MODULE = "kernel-module"
    FIRMWARE = "firmware"
    JIT = "jit"
    ANONYMOUS = "anonymous"
    UNKNOWN = "unknown"

    @property
    def placed(self) -> bool:
        """Whether offsets in such a module mean the same bytes in every run."""
        return self in _PLACED


KINDS: Final = tuple(ModuleKind)
"""All kinds; arrays hold places in this tuple, and files hold names."""

UNPLACED: Final = "unplaced:"
"""Begins the id of what gathers code that nobody could place."""

_PLACED: Final = frozenset(
    {ModuleKind.FILE, ModuleKind.KERNEL, ModuleKind.KERNEL_MODULE, ModuleKind.FIRMWARE}
)


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Module:
    """One piece of guest code, the same in every image that has it.

    :param id: the ELF build id in lower-case hex, or ``sha256:`` and the hash of the
        whole file for code without one.
    :param name: for people: a path in the guest, a kernel's release, a module's name.
        Two modules are the same when kind and id are, whatever their names.

    Offsets count bytes from the start of the file, for a kernel from ``_text``, for a
    kernel module from the start of its code in memory.
    """

    kind: ModuleKind
    id: str
    name: str = dataclasses.field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"kind": str(self.kind), "id": self.id, "name": self.name}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse; raises KeyError, TypeError or ValueError."""
        return cls(ModuleKind(value["kind"]), str(value["id"]), str(value["name"]))
