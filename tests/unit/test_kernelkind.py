# SPDX-License-Identifier: GPL-2.0-or-later
"""What tells for which machine a kernel is."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from sysqcache.spec.arch import HEAD, kernel_machine, read_kernel_machine


def at(offset: int, magic: bytes) -> bytes:
    return bytes(offset) + magic + bytes(HEAD - offset - len(magic))


def bzimage(version: int, flags: int) -> bytes:
    head = bytearray(at(0x202, b"HdrS"))
    struct.pack_into("<H", head, 0x206, version)
    struct.pack_into("<H", head, 0x236, flags)
    return bytes(head)


def elf(bits: int, machine: int, order: int = 1) -> bytes:
    ident = b"\x7fELF" + bytes([bits, order, 1]) + bytes(9)
    return ident + struct.pack("<HH" if order == 1 else ">HH", 2, machine)


@pytest.mark.parametrize(
    ("head", "machine"),
    [
        (at(0x202, b"HdrS"), "x86_64"),
        (bzimage(0x20F, 0x7F), "x86_64"),
        (bzimage(0x20F, 0x7E), "32-bit x86"),
        (bzimage(0x20B, 0), "x86_64"),  # too old to tell
        (bzimage(0x20F, 0)[:0x206], "x86_64"),
        (at(0x38, b"ARMd"), "aarch64"),
        (at(0x38, b"RSC\x05"), "riscv64"),
        (at(0x24, struct.pack("<I", 0x016F2818)), "32-bit arm"),
        (elf(2, 62), "x86_64"),
        (elf(2, 183), "aarch64"),
        (elf(2, 243), "riscv64"),
        (elf(1, 40), "32-bit arm"),
        (elf(1, 243), "32-bit riscv"),
        # QEMU starts these too, or says itself why not
        (elf(1, 3), ""),
        (elf(2, 22, order=2), ""),
        (b"\x1f\x8b\x08", ""),
        (b"MZ\0\0zimg", ""),
        (b"\x7fELF", ""),
        (b"", ""),
    ],
)
def test_kinds_of_kernels(head: bytes, machine: str) -> None:
    assert kernel_machine(head) == machine


def test_a_file_that_can_not_be_read_tells_nothing(tmp_path: Path) -> None:
    assert read_kernel_machine(tmp_path / "none") == ""
    (tmp_path / "kernel").write_bytes(at(0x38, b"ARMd"))
    assert read_kernel_machine(tmp_path / "kernel") == "aarch64"
