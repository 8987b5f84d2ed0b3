# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the file systems of a disk begin: GPT (UEFI 2.10, 5.3), MBR, or none at all."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
import uuid
from collections.abc import Iterator
from typing import Final

from sysqcache.attribution.imagescan import limits
from sysqcache.formats.access import RandomAccess

_SECTORS: Final = (512, 4096)
_GPT_HEADER: Final = struct.Struct("<8sIIIIQQQQ16sQIII")
_GPT_ENTRY: Final = struct.Struct("<16s16sQQQ72s")
_MBR_ENTRY: Final = struct.Struct("<B3sB3sII")
_EXTENDED: Final = (0x05, 0x0F, 0x85)
_PROTECTIVE: Final = 0xEE


@dataclasses.dataclass(frozen=True, slots=True)
class Partition:
    """A part of a disk, in bytes; ``number`` 0 is the whole disk, others as Linux counts."""

    number: int
    start: int
    size: int


def partitions(disk: RandomAccess) -> list[Partition]:
    """The partitions of a disk; the whole disk when it has no table of them."""
    whole = Partition(0, 0, disk.size)
    if identify(disk, whole):
        return [whole]  # a boot sector of a file system can look like a table
    found = _gpt(disk) or list(_mbr(disk))
    inside = [p for p in found if p.size > 0 and 0 < p.start < disk.size]
    return inside[: limits.PARTITIONS] or [whole]


def _gpt(disk: RandomAccess) -> list[Partition]:
    for sector in _SECTORS:
        for place in (sector, disk.size - sector):  # the second one is the spare table
            found = _gpt_at(disk, sector, place)
            if found:
                return found
    return []


def _gpt_at(disk: RandomAccess, sector: int, place: int) -> list[Partition]:
    header = disk.read(max(0, place), _GPT_HEADER.size)
    if len(header) < _GPT_HEADER.size or header[:8] != b"EFI PART":
        return []
    table, count, size = _GPT_HEADER.unpack(header)[10:13]
    if not _GPT_ENTRY.size <= size <= sector or count == 0:
        return []
    entries = disk.read(table * sector, size * min(count, limits.PARTITIONS))
    found = []
    for number in range(len(entries) // size):
        kind, _, first, last, _, _ = _GPT_ENTRY.unpack_from(entries, number * size)
        if uuid.UUID(bytes_le=kind).int:
            found.append(Partition(number + 1, first * sector, (last + 1 - first) * sector))
    return found


def _mbr(disk: RandomAccess) -> Iterator[Partition]:
    for number, (kind, start, size) in enumerate(_mbr_entries(disk, 0), 1):
        if kind in _EXTENDED:
            yield from _logical(disk, start)
        elif kind not in (0, _PROTECTIVE):
            yield Partition(number, start * 512, size * 512)


def _mbr_entries(disk: RandomAccess, sector: int) -> list[tuple[int, int, int]]:
    """Kind, first sector and number of sectors of the four entries."""
    content = disk.read(sector * 512, 512)
    if content[510:] != b"\x55\xaa":
        return []
    entries = [_MBR_ENTRY.unpack_from(content, 446 + 16 * number) for number in range(4)]
    if any(entry[0] & 0x7F for entry in entries):
        return []  # neither active nor inactive: this is no table
    return [(entry[2], entry[4], entry[5]) for entry in entries]


def _logical(disk: RandomAccess, base: int) -> Iterator[Partition]:
    """Logical partitions: a chain of tables, which a hostile disk may close to a ring."""
    sector, seen = base, set[int]()
    number = 5
    while sector not in seen and len(seen) < limits.PARTITIONS:
        seen.add(sector)
        entries = _mbr_entries(disk, sector)
        if not entries:
            return
        kind, start, size = entries[0]
        if kind:
            yield Partition(number, (sector + start) * 512, size * 512)
            number += 1
        if entries[1][0] not in _EXTENDED:
            return
        sector = base + entries[1][1]


_MAGIC: Final = (
    ("ext", 1080, b"\x53\xef"),
    ("LUKS", 0, b"LUKS\xba\xbe"),
    ("LVM", 512, b"LABELONE"),
    ("btrfs", 65600, b"_BHRfS_M"),
    ("XFS", 0, b"XFSB"),
    ("f2fs", 1024, b"\x10\x20\xf5\xf2"),
    ("squashfs", 0, b"hsqs"),
    ("erofs", 1024, b"\xe2\xe1\xf5\xe0"),
    ("ISO 9660", 32769, b"CD001"),
    ("RAID", 4096, b"\xfc\x4e\x2b\xa9"),
    ("swap", 4086, b"SWAPSPACE2"),
    ("FAT", 82, b"FAT32"),
    ("FAT", 54, b"FAT1"),
    ("NTFS", 3, b"NTFS    "),
)
"""Names, places and magic numbers of what can begin on a partition; libblkid has them all."""

HOLD_NO_CODE: Final = ("swap", "FAT")
"""FAT is the partition of UEFI's boot loaders, which are not ELF."""


_BLANK: Final = 1 << 20


_BOOT_CODE: Final = 446
_DISK_GUID: Final = 56
_ISO_DESCRIPTOR: Final = (32768, 2048)


def mark(disk: RandomAccess) -> str:
    """What tells a disk's copies from other disks, "" when there is nothing.

    The hash of what is written when a disk is made, and hardly ever again: the boot sector
    with its disk signature, the GUID of a GPT, the first descriptor of an ISO 9660.
    """
    header = disk.read(_SECTORS[0], _GPT_HEADER.size)
    guid = header[_DISK_GUID : _DISK_GUID + 16] if header[:8] == b"EFI PART" else b""
    descriptor = disk.read(*_ISO_DESCRIPTOR)
    if descriptor[1:6] != b"CD001":
        descriptor = b""
    content = disk.read(0, _BOOT_CODE) + guid + descriptor
    return hashlib.sha256(content).hexdigest() if content.strip(b"\0") else ""


def is_blank(disk: RandomAccess, partition: Partition) -> bool:
    """Whether nothing was written where all file systems and tables begin."""
    return not disk.read(partition.start, _BLANK).strip(b"\0")


def identify(disk: RandomAccess, partition: Partition) -> str:
    """What a partition holds: "ext" for ext2 to ext4, "" when nobody knows."""
    for name, offset, magic in _MAGIC:
        if disk.read(partition.start + offset, len(magic)) == magic:
            return name
    return ""
