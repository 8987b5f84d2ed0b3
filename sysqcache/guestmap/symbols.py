# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel symbols that the walks start from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from sysqcache.guestmap.memory import UnknownShapeError

FUNCTIONS: Final = (
    "_text",
    "_stext",
    "_etext",
    "_sinittext",
    "_einittext",
    "special_mapping_name",
)
"""In the symbol table of every kernel."""

EXPORTS: Final = ("init_task", "iomem_resource")
"""Variables that modules may use, so that the kernel has a table of them for its loader.

An architecture may have more: :attr:`.space.AddressSpace.variables`."""

VARIABLES: Final = (*EXPORTS, "init_mm", "modules", "__start_BTF", "__stop_BTF")
"""In the symbol table of kernels with CONFIG_KALLSYMS_ALL, else found by :mod:`.roots`."""

USEFUL: Final = ("__start_notes", "__stop_notes", "_end")
"""Done without where they lack."""

WANTED: Final = (*FUNCTIONS, *VARIABLES, *USEFUL)


@dataclasses.dataclass(frozen=True, slots=True)
class Symbols:
    """Addresses in the running guest, the KASLR slide applied."""

    addresses: Mapping[str, int]

    def __getitem__(self, name: str) -> int:
        try:
            return self.addresses[name]
        except KeyError:
            raise UnknownShapeError(f"this kernel has no symbol {name}") from None

    def __contains__(self, name: str) -> bool:
        return name in self.addresses

    def get(self, name: str) -> int:
        """The address, 0 when there is no such symbol."""
        return self.addresses.get(name, 0)
