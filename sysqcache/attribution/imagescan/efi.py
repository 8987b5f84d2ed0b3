# SPDX-License-Identifier: GPL-2.0-or-later
"""What EFI firmware unpacks when it starts: most of itself, packed with LZMA.

A firmware file holds volumes, these files, these sections (UEFI PI specification, volume 3).
A section of type 2 whose GUID is LZMA's holds further volumes. Only such sections are searched
for: what is in them runs.
"""

from __future__ import annotations

import lzma
import struct
from collections.abc import Iterator
from typing import Final

_LZMA: Final = bytes.fromhex("98584eee143959429d6edc7bd79403cf")
"""EE4E5898-3914-4259-9D6E-DC7BD79403CF as a file has it."""

_GUID_DEFINED: Final = 2
_HEAD: Final = struct.Struct("<3sB16sHH")
"""Size, type, GUID, where the data begin, attributes."""

_MOST_SECTIONS: Final = 8
_MOST_BYTES: Final = 64 << 20
_MEMORY: Final = 64 << 20
_SHORTEST: Final = 4096


def unpacked_sections(firmware: bytes) -> list[bytes]:
    """The packed sections of a firmware file, unpacked; damaged ones as far as they go."""
    found: list[bytes] = []
    for packed in _packed(firmware):
        content = _unpack(packed)
        if len(content) >= _SHORTEST:
            found.append(content)
        if len(found) == _MOST_SECTIONS:
            break
    return found


def _packed(firmware: bytes) -> Iterator[bytes]:
    place = firmware.find(_LZMA)
    while place >= 0:
        start = place - 4
        if start >= 0 and start + _HEAD.size <= len(firmware):
            size, kind, _, data, _ = _HEAD.unpack_from(firmware, start)
            end = start + int.from_bytes(size, "little")
            if kind == _GUID_DEFINED and data >= _HEAD.size:
                yield firmware[start + data : end]
        place = firmware.find(_LZMA, place + 1)


def _unpack(packed: bytes) -> bytes:
    """Raises nothing: what is behind damage is missing."""
    try:
        one = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MEMORY)
        return one.decompress(packed, _MOST_BYTES)
    except (lzma.LZMAError, EOFError):
        return b""
