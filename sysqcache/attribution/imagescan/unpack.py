# SPDX-License-Identifier: GPL-2.0-or-later
"""Unpacking what kernels, initial RAM disks and kernel modules are packed with.

All with a bound on what comes out, so that a small file can't fill the memory.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, Final

from sysqcache.attribution.imagescan import limits

_LZ4_LEGACY_BLOCK: Final = 8 << 20
"""What the kernel's lz4 tool packs at a time: LEGACY_BLOCKSIZE."""

_STEP: Final = 7 << 10
_OVERLAP: Final = 1 << 10
_ZSTD_PIECE: Final = 4 << 10
"""Read at a time: four bytes can become 128 KiB, so that this becomes 128 MiB at most."""


class PackedDataError(Exception):
    """Data that can't be unpacked, with the reason in words."""


def packing(head: bytes) -> str:
    """The name of what ``head`` is packed with, "" when it is not known."""
    return next((name for magic, name in _MAGIC if head.startswith(magic)), "")


def unpack(data: bytes | memoryview, most: int = limits.ARCHIVE_BYTES) -> tuple[bytes, int]:
    """Unpack one stream at the start of ``data``.

    :param most: bytes that may come out.
    :returns: the content, and how many bytes of ``data`` it took.
    :raises PackedDataError: unknown, damaged or too large; torn data is damaged.
    """
    name = packing(bytes(data[:8]))
    if not name:
        raise PackedDataError("not packed with anything that is known")
    try:
        return _UNPACKERS[name](data, most)
    except _damage() as error:
        raise PackedDataError(f"damaged {name} data: {error}") from error


def unpack_until(
    packed: BinaryIO, wanted: Callable[[bytes], str], most: int = limits.KERNEL_MODULE_BYTES
) -> str:
    """Unpack no more than it takes to find something.

    :param packed: an xz, gzip or zstd file.
    :param wanted: is asked about pieces of 8 KiB that overlap by 1 KiB; "" to go on.
    :returns: its answer, "" when it never gave one.
    :raises PackedDataError: unknown or damaged data.
    """
    name = packing(packed.read(8))
    packed.seek(0)
    opener = _STREAMS.get(name)
    if opener is None:
        raise PackedDataError("not packed with anything that is known")
    try:
        with opener(packed) as stream:
            tail = b""
            for _ in range(most // _STEP):
                piece = stream.read(_STEP)
                found = wanted(tail + piece)
                if found or not piece:
                    return found
                tail = piece[-_OVERLAP:]
    except _damage() as error:
        raise PackedDataError(f"damaged {name} data: {error}") from error
    return ""


def _damage() -> tuple[type[Exception], ...]:
    """What the decompressors raise for damaged data."""
    import zstandard

    return (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error, zstandard.ZstdError)


def _by_object(make: Callable[[], Any], data: bytes | memoryview, most: int) -> tuple[bytes, int]:
    """Decompressors of the standard library all work this way."""
    unpacker = make()
    out = unpacker.decompress(data, most + 1)
    if len(out) > most:
        raise ValueError("there is too much of it")
    if not unpacker.eof:
        raise ValueError("its end is missing")
    return out, len(data) - len(unpacker.unused_data)


def _zstd_stream(packed: BinaryIO) -> Any:
    import zstandard

    return zstandard.ZstdDecompressor().stream_reader(packed)


def _zstd(data: bytes | memoryview, most: int) -> tuple[bytes, int]:
    import zstandard

    # the frame says what window it needs; the kernel's own limit is 128 MiB
    unpacker = zstandard.ZstdDecompressor(max_window_size=128 << 20).decompressobj()
    view = memoryview(data)
    parts: list[bytes] = []
    size = taken = 0
    while taken < len(view) and not unpacker.eof:
        piece = view[taken : taken + _ZSTD_PIECE]
        parts.append(unpacker.decompress(piece))
        taken += len(piece)
        size += len(parts[-1])
        if size > most:
            raise ValueError("there is too much of it")
    if not unpacker.eof:
        raise ValueError("its end is missing")
    return b"".join(parts), taken - len(unpacker.unused_data)


def _lz4(data: bytes | memoryview, most: int) -> tuple[bytes, int]:
    """The legacy frame, which the kernel uses: a size and a block, again and again.

    It has no end mark; it ends with the data or where no size of a block can be.
    """
    import lz4.block

    view = memoryview(data)
    parts: list[bytes] = []
    total, place = 0, 4
    while place + 4 <= len(view):
        (size,) = struct.unpack_from("<I", view, place)
        if not 0 < size <= _LZ4_LEGACY_BLOCK + _LZ4_LEGACY_BLOCK // 255 + 16:
            break
        block = view[place + 4 : place + 4 + size]
        if len(block) < size:
            break  # a kernel's payload has the unpacked size behind it
        try:
            part = lz4.block.decompress(block, uncompressed_size=_LZ4_LEGACY_BLOCK)
        except lz4.block.LZ4BlockError as error:
            raise ValueError(str(error)) from error
        parts.append(part)
        place += 4 + size
        total += len(part)
        if total > most:
            raise ValueError("there is too much of it")
    if not parts:
        raise ValueError("its first block is missing")
    return b"".join(parts), place


_MAGIC: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x02\x21\x4c\x18", "lz4"),
)

_UNPACKERS: Final[dict[str, Callable[[bytes | memoryview, int], tuple[bytes, int]]]] = {
    "gzip": partial(_by_object, lambda: zlib.decompressobj(31)),
    "bzip2": partial(_by_object, bz2.BZ2Decompressor),
    "xz": partial(_by_object, lambda: lzma.LZMADecompressor(memlimit=limits.ARCHIVE_BYTES)),
    "zstd": _zstd,
    "lz4": _lz4,
}

_STREAMS: Final[dict[str, Callable[[BinaryIO], Any]]] = {
    "gzip": lambda packed: gzip.GzipFile(fileobj=packed),
    "xz": lzma.LZMAFile,
    "zstd": _zstd_stream,
}
