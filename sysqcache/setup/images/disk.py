# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks of Debian images: partitions and a file system from an archive of its files.

No loop device and no mount is needed: mke2fs fills the file system itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from sysqcache.setup.work import Work
from sysqcache.spec.recipe import DiskLayout

_ALIGN: Final = 1 << 20
_SECTOR: Final = 512

# $1 archive, $2 directory, $3 uuid, $4 disk, $5 where kernel and initrd go, $6 offset of the
# file system, $7 its size in KiB; then options
_FILL: Final = """
set -e
archive=$1 tree=$2 uuid=$3 disk=$4 target=$5 offset=$6 size=$7
shift 7
trap 'rm -rf "$tree"' EXIT
tar -C "$tree" --numeric-owner --exclude="./dev/*" -xpf "$archive"
mkfs.ext4 -q -F -L root -U "$uuid" -E hash_seed="$uuid",offset="$offset" -d "$tree" "$@" \
    "$disk" "$size"k
cp "$tree"/boot/vmlinuz-* "$tree"/boot/initrd.img-* "$target"
chmod a+r "$target"/*
"""


def make(layout: DiskLayout, root: Path, raw: Path, target: Path, work: Work) -> None:
    """Write a raw disk with the files of the archive ``root``; its kernels go to ``target``.

    :raises ImageBuildError: a program failed.
    """
    with raw.open("wb") as file:
        file.truncate(layout.size)
    tree = raw.with_name("root")
    tree.mkdir()
    start, size = 0, layout.size
    if layout.swap:
        start, size = _partition(layout, raw, work)
    script: list[str | Path] = ["sh", "-c", _FILL, "sh", root, tree, layout.uuid, raw, target]
    work.run([*_namespace(), *script, str(start), str(size >> 10), *layout.mkfs])


def partitions(layout: DiskLayout) -> tuple[str, int, int]:
    """The partition table as sfdisk reads it, start and size of the root partition in bytes."""
    start = _ALIGN + layout.swap
    size = layout.size - start - _ALIGN  # the end holds the second copy of the table
    text = (
        f"label: gpt\nlabel-id: {layout.uuid}\n"
        f"start={_ALIGN // _SECTOR}, size={layout.swap // _SECTOR}, type=swap, name=swap\n"
        f"start={start // _SECTOR}, size={size // _SECTOR}, type=linux, name=root\n"
    )
    return text, start, size


def _partition(layout: DiskLayout, raw: Path, work: Work) -> tuple[int, int]:
    text, start, size = partitions(layout)
    table, swap = raw.with_name("partitions"), raw.with_name("swap.raw")
    table.write_text(text)
    work.run(["sh", "-c", 'sfdisk --quiet "$1" < "$2"', "sh", raw, table])
    with swap.open("wb") as file:
        file.truncate(layout.swap)
    swap.chmod(0o600)
    work.run(["mkswap", swap])
    # all that mkswap writes is one page
    with swap.open("rb") as source, raw.open("r+b") as file:
        file.seek(_ALIGN)
        file.write(source.read(4096))
    swap.unlink()
    return start, size


def _namespace() -> list[str]:
    """Without root, a user namespace in which files can belong to any user of the guest."""
    return [] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--map-auto"]
