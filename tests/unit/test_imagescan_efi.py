# SPDX-License-Identifier: GPL-2.0-or-later
"""Sections of EFI firmware that are packed with LZMA: found, unpacked, bounded."""

from __future__ import annotations

import lzma
import random

import pytest

from sysqcache.attribution.imagescan import efi

GUID = bytes.fromhex("98584eee143959429d6edc7bd79403cf")
CODE = random.Random(1).randbytes(20_000)
FILTERS = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 20}]


def section(content: bytes, *, kind: int = 2, guid: bytes = GUID) -> bytes:
    """As EDK2's tools pack it, with the size of the content in the head."""
    packed = bytearray(lzma.compress(content, lzma.FORMAT_ALONE, filters=FILTERS))
    packed[5:13] = len(content).to_bytes(8, "little")
    size = (24 + len(packed)).to_bytes(3, "little")
    return size + bytes([kind]) + guid + b"\x18\0\1\0" + bytes(packed)


def test_packed_sections_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    firmware = b"\xff" * 4096 + section(CODE) + b"\xff" * 100 + section(CODE[::-1])
    assert efi.unpacked_sections(firmware) == [CODE, CODE[::-1]]
    assert efi.unpacked_sections(b"") == []
    assert efi.unpacked_sections(GUID) == []
    monkeypatch.setattr(efi, "_MOST_SECTIONS", 1)
    assert efi.unpacked_sections(firmware) == [CODE]


def test_what_is_something_else_is_passed_over() -> None:
    assert efi.unpacked_sections(section(CODE, kind=1)) == []
    assert efi.unpacked_sections(section(CODE, guid=bytes(16))) == []
    # a GUID in a table of the firmware's own
    assert efi.unpacked_sections(bytes(200) + GUID + bytes(200) + section(CODE)) == [CODE]


def test_damage_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = section(CODE)
    for kept in range(0, len(whole), 997):
        assert all(CODE.startswith(one) for one in efi.unpacked_sections(whole[:kept]))
    some = random.Random(2)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[some.randrange(len(damaged))] ^= 1 << some.randrange(8)
        efi.unpacked_sections(bytes(damaged))
    huge = bytearray(whole)
    huge[24 + 1 : 24 + 5] = b"\xff\xff\xff\xff"  # the dictionary's size
    assert efi.unpacked_sections(bytes(huge)) == []
    monkeypatch.setattr(efi, "_MOST_BYTES", 10_000)
    assert efi.unpacked_sections(whole) == [CODE[:10_000]]
