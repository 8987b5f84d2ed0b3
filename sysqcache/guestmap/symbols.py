# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel symbols that the walks start from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from sysqcache.guestmap.memory import UnreadableError

WANTED: Final = (
    "_text",
    "_stext",
    "_etext",
    "_sinittext",
    "_einittext",
    "__start_rodata",
    "__end_rodata",
    "_sdata",
    "_edata",
    "__bss_start",
    "__init_begin",
    "__init_end",
    "_end",
    "__start_BTF",
    "__stop_BTF",
    "__start_notes",
    "__stop_notes",
    "init_task",
    "init_uts_ns",
    "modules",
    "super_blocks",
    "max_pfn",
    "vmemmap_base",
    "page_offset_base",
    "e820_table",
    "real_mode_header",
    "special_mapping_vmops",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Symbols:
    """Addresses in the running guest, the KASLR slide applied."""

    addresses: Mapping[str, int]

    def __getitem__(self, name: str) -> int:
        try:
            return self.addresses[name]
        except KeyError:
            raise UnreadableError(f"this kernel has no symbol {name}") from None

    def __contains__(self, name: str) -> bool:
        return name in self.addresses

    def get(self, name: str) -> int:
        """The address, 0 when there is no such symbol."""
        return self.addresses.get(name, 0)
