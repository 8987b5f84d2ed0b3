# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks with the file systems that people have, made without root and without mounting any."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

MIB = 1 << 20
SECTOR = 512
EXTENT = 4 * MIB


def tool(name: str) -> str:
    """A program of the host; skips the test when it is not installed."""
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if not found:
        pytest.skip(f"{name} is not installed: scripts/install-packages test")
    return found


def run(*command: str | Path) -> None:
    subprocess.run([tool(str(command[0])), *command[1:]], check=True, capture_output=True)


def sparse(file: Path, size: int) -> Path:
    with file.open("wb") as stream:
        stream.truncate(size)
    return file


def make_ext4(image: Path, tree: Path, size: int) -> Path:
    run("mkfs.ext4", "-q", "-F", "-d", tree, sparse(image, size))
    return image


def make_newer_ext4(image: Path, tree: Path, size: int) -> Path:
    """Of a kind that the reader of ext4 does not know."""
    options = ("-O", "meta_bg,^resize_inode")
    run("mkfs.ext4", "-q", "-F", *options, "-d", tree, sparse(image, size))
    return image


def make_xfs(image: Path, tree: Path, size: int) -> Path:
    prototype = image.with_suffix(".proto")
    prototype.write_text("\n".join(["/none", "0 0", *_xfs_directory(tree), "$", ""]))
    run("mkfs.xfs", "-q", "-f", "-p", prototype, sparse(image, max(size, 320 * MIB)))
    return image


def _xfs_directory(directory: Path) -> Iterator[str]:
    """The entries of a directory as mkfs.xfs reads them, its own line first."""
    yield _xfs_mode("d", directory)
    for path in sorted(directory.iterdir()):
        if " " in path.name:
            continue  # mkfs.xfs can't have it
        if path.is_symlink():
            yield f"{path.name} {_xfs_mode('l', path)} {path.readlink()}"
        elif path.is_dir():
            first, *rest = _xfs_directory(path)
            yield f"{path.name} {first}"
            yield from rest
            yield "$"
        elif path.is_file():
            yield f"{path.name} {_xfs_mode('-', path)} {path}"


def _xfs_mode(kind: str, path: Path) -> str:
    info = path.lstat()
    bits = ("u" if info.st_mode & 0o4000 else "-") + ("g" if info.st_mode & 0o2000 else "-")
    return f"{kind}{bits}{info.st_mode & 0o777:03o} {info.st_uid} {info.st_gid}"


def make_btrfs(image: Path, tree: Path, size: int) -> Path:
    run("mkfs.btrfs", "-q", "-r", tree, sparse(image, max(size, 256 * MIB)))
    return image


def make_f2fs(image: Path, tree: Path, size: int) -> Path:
    run("mkfs.f2fs", "-q", "-f", sparse(image, max(size, 128 * MIB)))
    run("sload.f2fs", "-f", tree, image)
    return image


def make_squashfs(image: Path, tree: Path, size: int) -> Path:
    run("mksquashfs", tree, image, "-quiet", "-no-progress", "-comp", "zstd", "-all-root")
    return image


def make_erofs(image: Path, tree: Path, size: int) -> Path:
    run("mkfs.erofs", "-zlz4", image, tree)
    return image


def make_fat(image: Path, tree: Path, size: int) -> Path:
    run("mkfs.vfat", sparse(image, size))
    run("mcopy", "-s", "-i", image, *sorted(tree.iterdir()), "::/")
    return image


def with_gpt(disk: Path, parts: Sequence[Path]) -> Path:
    """A disk whose partitions hold these file systems, each at a whole MiB."""
    lines, place = ["label: gpt"], MIB
    places = []
    for part in parts:
        size = -(-part.stat().st_size // MIB) * MIB
        lines.append(f"start={place // SECTOR}, size={size // SECTOR}, type=linux")
        places.append(place)
        place += size
    sparse(disk, place + MIB)
    command = [tool("sfdisk"), "--quiet", str(disk)]
    table = "\n".join([*lines, ""]).encode()
    subprocess.run(command, input=table, check=True, capture_output=True)
    for part, place in zip(parts, places, strict=True):
        copy_into(disk, part, place)
    return disk


def copy_into(disk: Path, part: Path, place: int) -> None:
    """Write a file's bytes at ``place`` of a disk, holes as holes."""
    with part.open("rb") as source, disk.open("r+b") as file:
        for chunk in iter(lambda: source.read(8 * MIB), b""):
            if chunk.strip(b"\0"):
                os.pwrite(file.fileno(), chunk, place)
            place += len(chunk)


def make_volume_group(image: Path, tree: Path, size: int) -> Path:
    """ext4 on a logical volume whose extents lie in another order than the file system's."""
    content = make_ext4(image.with_suffix(".ext4"), tree, size).read_bytes()
    count = -(-len(content) // EXTENT)
    half = count // 2
    data = b"".join([content[half * EXTENT :].ljust((count - half) * EXTENT, b"\0")])
    data += content[: half * EXTENT]
    segments = [(0, half, count - half), (half, count - half, 0)]
    write_volume_group(image, data, "system", "root", segments)
    return image


def write_volume_group(
    image: Path, data: bytes, group: str, volume: str, segments: list[tuple[int, int, int]]
) -> None:
    """A physical volume with the bytes of one logical volume: the format of LVM2.

    :param segments: first logical extent, how many, first physical extent.
    """
    count = len(data) // EXTENT
    size = MIB + count * EXTENT
    text = _metadata(group, volume, segments, size, count)
    area = 4096
    with sparse(image, size).open("r+b") as file:
        areas = struct.pack("<QQQQQQQQ", MIB, 0, 0, 0, area, MIB - area, 0, 0)
        label = struct.pack("<I8s32sQ", 32, b"LVM2 001", _uuid(1).replace("-", "").encode(), size)
        label = (label + areas).ljust(SECTOR - 20, b"\0")
        file.seek(SECTOR)
        file.write(struct.pack("<8sQI", b"LABELONE", 1, _crc(label)) + label)
        head = struct.pack("<16sIQQ", b" LVM2 x[5A%r0N*>", 1, area, MIB - area)
        head += struct.pack("<QQII", SECTOR, len(text), _crc(text), 0)
        head = head.ljust(SECTOR - 4, b"\0")
        file.seek(area)
        file.write(struct.pack("<I", _crc(head)) + head + text)
        file.seek(MIB)
        file.write(data)


def _crc(content: bytes) -> int:
    return zlib.crc32(content, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def _uuid(number: int) -> str:
    text = f"{number:032d}"
    ends = (6, 10, 14, 18, 22, 26, 32)
    return "-".join(text[start:end] for start, end in zip((0, *ends), ends, strict=False))


def _metadata(
    group: str, volume: str, segments: list[tuple[int, int, int]], size: int, count: int
) -> bytes:
    parts = "".join(
        f"segment{number} {{\nstart_extent = {first}\nextent_count = {length}\n"
        f'type = "striped"\nstripe_count = 1\nstripes = ["pv0", {place}]\n}}\n'
        for number, (first, length, place) in enumerate(segments, 1)
    )
    return (
        f'{group} {{\nid = "{_uuid(2)}"\nseqno = 1\nformat = "lvm2"\n'
        'status = ["RESIZEABLE", "READ", "WRITE"]\nflags = []\n'
        f"extent_size = {EXTENT // SECTOR}\nmax_lv = 0\nmax_pv = 0\nmetadata_copies = 0\n"
        f'physical_volumes {{\npv0 {{\nid = "{_uuid(1)}"\ndevice = "/dev/vda"\n'
        f'status = ["ALLOCATABLE"]\nflags = []\ndev_size = {size // SECTOR}\n'
        f"pe_start = {MIB // SECTOR}\npe_count = {count}\n}}\n}}\n"
        f'logical_volumes {{\n{volume} {{\nid = "{_uuid(3)}"\n'
        'status = ["READ", "WRITE", "VISIBLE"]\nflags = []\ncreation_time = 0\n'
        f'creation_host = "none"\nsegment_count = {len(segments)}\n{parts}}}\n}}\n}}\n'
        'contents = "Text Format Volume Group"\nversion = 1\ndescription = ""\n'
        'creation_host = "none"\ncreation_time = 0\n'
    ).encode() + b"\0"


MAKERS: dict[str, Callable[[Path, Path, int], Path]] = {
    "xfs": make_xfs,
    "btrfs": make_btrfs,
    "f2fs": make_f2fs,
    "squashfs": make_squashfs,
    "erofs": make_erofs,
    "lvm": make_volume_group,
    "ext4 with meta_bg": make_newer_ext4,
}
"""File systems with all that a root needs: image, directory of its files, size in bytes."""
