# SPDX-License-Identifier: GPL-2.0-or-later
"""Compressed clusters of qcow2 images: QEMU's docs/interop/qcow2.rst.

Ready-made cloud images consist of them, and ``qemu-img map`` does not say where they lie.
"""

from __future__ import annotations

import functools
import struct
import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sysqcache.formats.access import FileAccess

_HEADER: Final = struct.Struct(">4sIQIIQIIQ")
_PLACE: Final = 0x00FFFFFFFFFFFE00
_COMPRESSED: Final = 1 << 62
_EXTENDED_L2: Final = 1 << 4
_COMPRESSION_TYPE: Final = 1 << 3
_TYPE: Final = 104
"""Place of the compression type; without it, or 0, clusters are zlib's."""
_ZSTD: Final = 1
_KEPT: Final = 64
"""Unpacked clusters kept, 4 MiB with the usual 64 KiB: neighbours are read one by one."""


class CompressedClusters:
    """Bytes of compressed clusters by their place in the guest's disk."""

    def __init__(self, file: FileAccess) -> None:
        self._file = file
        header = file.read(0, 112)
        self._bits = 0
        if len(header) < 72 or header[:4] != b"QFI\xfb":
            return
        _, version, _, _, bits, _, _, self._entries, self._table = _HEADER.unpack_from(header)
        (features,) = struct.unpack_from(">Q", header, 72) if version >= 3 else (0,)
        if not 9 <= bits <= 21 or features & _EXTENDED_L2:
            return
        self._bits = bits
        has_type = features & _COMPRESSION_TYPE and len(header) > _TYPE
        self._zstd = bool(has_type and header[_TYPE] == _ZSTD)
        self._cluster = functools.lru_cache(_KEPT)(self._unpacked)

    def read(self, offset: int, size: int) -> bytes:
        """Guest bytes from ``offset``; fewer where a cluster can't be unpacked."""
        parts: list[bytes] = []
        while size > 0 and self._bits:
            number, inside = divmod(offset, 1 << self._bits)
            part = self._cluster(number)[inside : inside + size]
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
            if not part:
                break
        return b"".join(parts)

    def _unpacked(self, number: int) -> bytes:
        size = 1 << self._bits
        row, column = divmod(number, size // 8)
        table = self._entry(self._table + 8 * row) & _PLACE if row < self._entries else 0
        entry = self._entry(table + 8 * column) if table else 0
        if not entry & _COMPRESSED:
            return b""
        # the upper bits count further sectors of 512 bytes, the lower ones are the place
        split = 62 - (self._bits - 8)
        place = entry & (1 << split) - 1
        sectors = (entry & _COMPRESSED - 1) >> split
        data = self._file.read(place, (sectors + 1) * 512 - place % 512)
        return self._unpack(data, size)

    def _entry(self, place: int) -> int:
        return int.from_bytes(self._file.read(place, 8).ljust(8, b"\0"), "big")

    def _unpack(self, data: bytes, size: int) -> bytes:
        """A cluster; what is behind its data in the last sector belongs to another one."""
        unpack = _unpack_zstd if self._zstd else _unpack_zlib
        content = unpack(data, size)
        return content if len(content) == size else b""


def _unpack_zlib(data: bytes, size: int) -> bytes:
    """At most ``size`` bytes; none of damaged data."""
    try:
        return zlib.decompressobj(-12).decompress(data, size)
    except zlib.error:
        return b""


def _unpack_zstd(data: bytes, size: int) -> bytes:
    """At most ``size`` bytes; none of damaged data."""
    import zstandard

    try:
        return zstandard.ZstdDecompressor().stream_reader(data).read(size)
    except zstandard.ZstdError:
        return b""
