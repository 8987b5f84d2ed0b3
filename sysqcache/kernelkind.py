# SPDX-License-Identifier: GPL-2.0-or-later
"""For which machine a kernel file was built, by its first bytes.

QEMU starts a kernel that it does not recognize as plain code at the start of memory, and the
machine then says nothing for ever.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from sysqcache.base.types import ArchName

HEAD: Final = 0x240
"""Bytes that :func:`kernel_machine` looks at."""

X86_32: Final = "32-bit x86"
ARM_32: Final = "32-bit arm"
RISCV_32: Final = "32-bit riscv"

# offset and magic: x86/boot.rst, arm64/booting.rst, arch/arm/boot/compressed/head.S,
# riscv/boot-image-header.rst of the kernel's documentation
_MAGICS: Final = (
    (0x38, b"ARM\x64", ArchName.AARCH64.value),
    (0x38, b"RSC\x05", ArchName.RISCV64.value),
    (0x24, b"\x18\x28\x6f\x01", ARM_32),
)
_X86_MAGIC: Final = b"HdrS"
_X86_FLAGS_SINCE: Final = 0x20C  # version of the boot protocol
_X86_64_BIT: Final = 1
_ELF_MACHINES: Final = {
    (2, 62): ArchName.X86_64.value,
    (2, 183): ArchName.AARCH64.value,
    (2, 243): ArchName.RISCV64.value,
    (1, 40): ARM_32,
    (1, 243): RISCV_32,
}


def kernel_machine(head: bytes) -> str:
    """Name of the architecture; "" when these bytes don't tell (packed kernels, multiboot)."""
    if head[:4] == b"\x7fELF" and len(head) >= 20 and head[5] == 1:
        (machine,) = struct.unpack_from("<H", head, 18)
        return _ELF_MACHINES.get((head[4], machine), "")
    if head[0x202:0x206] == _X86_MAGIC:
        return _x86(head)
    for offset, magic, name in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return name
    return ""


def _x86(head: bytes) -> str:
    """Which of the two; kernels before 3.8 don't tell, and count as the usual one."""
    (version,) = struct.unpack_from("<H", head.ljust(HEAD, b"\0"), 0x206)
    (flags,) = struct.unpack_from("<H", head.ljust(HEAD, b"\0"), 0x236)
    narrow = version >= _X86_FLAGS_SINCE and not flags & _X86_64_BIT
    return X86_32 if narrow else ArchName.X86_64.value


def read_kernel_machine(file: Path) -> str:
    """:func:`kernel_machine` of a file; "" when it can't be read."""
    try:
        with file.open("rb") as stream:
            return kernel_machine(stream.read(HEAD))
    except OSError:
        return ""
