# SPDX-License-Identifier: GPL-2.0-or-later
"""For which machine a kernel file was built, by its first bytes.

QEMU starts a kernel that it does not recognize as plain code at the start of memory, and the
machine then says nothing for ever.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from sysqcache.types import ArchName

HEAD: Final = 0x240
"""Bytes that :func:`kernel_machine` looks at."""

# offset and magic: x86/boot.rst, arm64/booting.rst, arch/arm/boot/compressed/head.S,
# riscv/boot-image-header.rst of the kernel's documentation
_MAGICS: Final = (
    (0x202, b"HdrS", ArchName.X86_64.value),
    (0x38, b"ARM\x64", ArchName.AARCH64.value),
    (0x38, b"RSC\x05", ArchName.RISCV64.value),
    (0x24, b"\x18\x28\x6f\x01", "32-bit arm"),
)
_ELF_MACHINES: Final = {
    (2, 62): ArchName.X86_64.value,
    (2, 183): ArchName.AARCH64.value,
    (2, 243): ArchName.RISCV64.value,
    (1, 40): "32-bit arm",
    (1, 243): "32-bit riscv",
}


def kernel_machine(head: bytes) -> str:
    """Name of the architecture; "" when these bytes don't tell (packed kernels, multiboot)."""
    if head[:4] == b"\x7fELF" and len(head) >= 20 and head[5] == 1:
        (machine,) = struct.unpack_from("<H", head, 18)
        return _ELF_MACHINES.get((head[4], machine), "")
    for offset, magic, name in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return name
    return ""


def read_kernel_machine(file: Path) -> str:
    """:func:`kernel_machine` of a file; "" when it can't be read."""
    try:
        with file.open("rb") as stream:
            return kernel_machine(stream.read(HEAD))
    except OSError:
        return ""
