# SPDX-License-Identifier: GPL-2.0-or-later
"""How far we follow what a guest claims: its structures may be torn, broken or hostile."""

from __future__ import annotations

from typing import Final

MAP_SECONDS: Final = 10.0
"""Processor time of one whole map: a busy host is no reason to know less."""

MAP_READS: Final = 30_000_000
"""Reads of one whole map, cached ones included: a loop in warm memory ends too."""

CACHED_PAGES: Final = 16_384
"""Guest pages kept while mapping: 64 MiB of 4 KiB pages."""

BULK_BYTES: Final = 64 << 20
"""Most bytes of one bulk read, such as the BTF."""

QMP_SECONDS: Final = 5.0
"""Patience with a silent QEMU."""

SCAN_BYTES: Final = 16 << 30
"""Guest memory searched for a VMCOREINFO note when the guest did not publish it."""

VMCOREINFO_BYTES: Final = 64 << 10
BTF_BYTES: Final = 32 << 20
BTF_DEPTH: Final = 32
"""Typedefs and nested anonymous members followed."""

SYMBOLS: Final = 2_000_000
TASKS: Final = 65_536
MODULES: Final = 4_096
MODULE_BYTES: Final = 256 << 20
MODULE_NOTES: Final = 64
MODULE_SECTIONS: Final = 512
MAPPINGS: Final = 131_072
"""Mappings of one process: twice the kernel's own default limit."""

ALL_MAPPINGS: Final = 1_000_000
MAPLE_DEPTH: Final = 16
MOUNTS: Final = 4_096
PATH_PARTS: Final = 512
PATH_BYTES: Final = 4_096
NAME_BYTES: Final = 256
FILES: Final = 1_000_000
GUEST_PAGES: Final = 1 << 24
"""Guest pages classified: 64 GiB."""

ELF_PROGRAM_HEADERS: Final = 64
ELF_NOTE_BYTES: Final = 16 << 10
RESOURCES: Final = 4_096

IMAGE_BYTES: Final = 128 << 20
"""Most of a kernel's image that is searched for what its symbol table lacks."""

SEARCH_HITS: Final = 64
"""Places that look like what is searched for, each of which is then checked."""

ROOTS_TRIED: Final = 4_096
"""Places at which a variable may lie."""

BTF_TRIED: Final = 4
"""Pieces of memory that look like type information and are read as such."""
