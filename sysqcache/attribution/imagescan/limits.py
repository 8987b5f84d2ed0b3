# SPDX-License-Identifier: GPL-2.0-or-later
"""How far we follow what an image claims: it may be damaged, or made to hurt."""

from __future__ import annotations

from typing import Final

SCAN_SECONDS: Final = 60.0
"""Wall clock of one scan of all files of a machine."""

TOOL_SECONDS: Final = 20.0
"""Patience with qemu-img."""

TOOL_BYTES: Final = 64 << 20
"""Most bytes that qemu-img may print: a line for each extent."""

BACKING_FILES: Final = 64
PARTITIONS: Final = 128

BLOCK_GROUPS: Final = 1 << 20
"""Block groups of one file system: 128 TiB with blocks of 4 KiB."""

EXTENTS: Final = 65_536
"""Extents, or entries of block maps, of one file."""

EXTENT_DEPTH: Final = 5
"""The kernel's own EXT4_MAX_EXTENT_DEPTH."""

DIRECTORY_BYTES: Final = 64 << 20
DIRECTORY_ENTRIES: Final = 4_000_000
"""Names of one file system, in all directories together."""

PATH_BYTES: Final = 4_096
CODE_FILES: Final = 200_000
CACHED_BLOCKS: Final = 1_024
"""Pieces of inode tables kept while scanning, 16 KiB each."""

HASHED_BYTES: Final = 64 << 20
"""Size of the largest file without a build id that is hashed."""

HASHED_TOTAL: Final = 1 << 30
"""Bytes hashed in one scan."""

KERNEL_MODULE_BYTES: Final = 256 << 20
SYMBOL_FILE_BYTES: Final = 512 << 20
SYSTEM_MAP_BYTES: Final = 64 << 20
KALLSYMS_BYTES: Final = 16 << 20
SYMBOLS: Final = 4_000_000
ARCHIVE_BYTES: Final = 1 << 30
"""An initrd, unpacked."""

ARCHIVE_ENTRIES: Final = 1_000_000
KERNEL_BYTES: Final = 256 << 20
"""A kernel, packed or unpacked."""

BOOT_ENTRIES: Final = 64
BOOT_ENTRY_BYTES: Final = 64 << 10
"""Entries of boot loaders on a file system, and the largest that is read."""

CACHE_BYTES: Final = 256 << 20
"""The largest file of ours that is believed."""
