# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's files on other disks than the one that was built: the same packages, another image."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from rootshelp import (
    EXTENT,
    MIB,
    SECTOR,
    make_btrfs,
    make_xfs,
    run,
    sparse,
    tool,
    with_gpt,
    write_volume_group,
)

from sysqcache.base import paths
from sysqcache.base.errors import ImageBuildError
from sysqcache.setup.apt import sources
from sysqcache.setup.apt.private import PrivateApt
from sysqcache.setup.images import programs
from sysqcache.setup.images.cpio import CpioWriter
from sysqcache.setup.work import Work
from sysqcache.spec.catalog import ImagePaths
from sysqcache.spec.engines import Engine

_SIZE = 2048 * MIB
_LVM = "sbin/lvm"
_BUSYBOX = "bin/busybox"
_START_GROUPS = """#!/bin/sh
[ "$1" = prereqs ] && exit 0
/conf/busybox insmod /conf/dm-mod.ko
lvm vgchange --activate y --sysinit
"""
_ORDER = '/scripts/local-top/groups "$@"\n[ -e /conf/param.conf ] && . /conf/param.conf\n'

Made = tuple[Path, dict[str, str]]
"""A disk, and fields of vm.yaml that differ from the image's own."""


def raw_disk(image: ImagePaths, engine: Engine, folder: Path) -> Path:
    """The image's disk, which is one ext4 file system."""
    assert image.disk is not None
    raw = folder / "original"
    command: list[str | Path] = [engine.qemu_img, "convert", "-O", "raw", image.disk, raw]
    subprocess.run(command, check=True)
    return raw


def files(raw: Path, folder: Path) -> Path:
    """The files of an ext4 file system, with their owners."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files to the owners that they have in the image")
    tree = folder / "tree"
    tree.mkdir()
    command = [tool("debugfs"), "-R", f'rdump / "{tree}"', str(raw)]
    subprocess.run(command, check=True, capture_output=True)
    return tree


def on_xfs(raw: Path, folder: Path) -> Made:
    disk = make_xfs(folder / "xfs", files(raw, folder), _SIZE)
    return disk, {"cmdline": "root=/dev/vda rootfstype=xfs rw console=ttyS0 no_timer_check"}


def on_btrfs(raw: Path, folder: Path) -> Made:
    disk = make_btrfs(folder / "btrfs", files(raw, folder), _SIZE)
    return disk, {"cmdline": "root=/dev/vda rootfstype=btrfs rw console=ttyS0 no_timer_check"}


def on_volume_group(raw: Path, folder: Path) -> Made:
    """ext4 on two parts of a disk, the second of which comes first."""
    content = raw.read_bytes()
    count = len(content) // EXTENT
    half = count // 2
    data = content[half * EXTENT :] + content[: half * EXTENT]
    segments = [(0, half, count - half), (half, count - half, 0)]
    write_volume_group(folder / "lvm", data, "system", "root", segments)
    modules = files(raw, folder)
    initrd = folder / "initrd"
    built = paths.images_dir() / "debian12-x86_64" / "initrd"
    initrd.write_bytes(built.read_bytes() + gzip.compress(_starts_groups(modules, folder), 1))
    return folder / "lvm", {
        "cmdline": "root=/dev/mapper/system-root rw console=ttyS0 no_timer_check",
        "initrd": str(initrd),
    }


def _starts_groups(tree: Path, folder: Path) -> bytes:
    """What Debian's package lvm2 adds to an initial RAM disk."""
    work = Work(folder / "apt.log", ImageBuildError)
    archives = sources.for_release(sources.read_sources(), "bookworm")
    apt = PrivateApt(folder / "apt", archives, work, "amd64")
    apt.update()
    unpacked = folder / "unpacked"
    for deb in apt.download(*programs.packages(apt, ["lvm2"]), "busybox-static"):
        apt.unpack(deb, unpacked)
    cpio = CpioWriter()
    for name, file in programs.installed([_LVM], unpacked).items():
        # both are links to what is in /usr
        cpio.file(name if name.startswith("usr/") else f"usr/{name}", file.read_bytes(), 0o755)
    cpio.file("conf/busybox", (unpacked / _BUSYBOX).read_bytes(), 0o755)
    module = next(tree.glob("**/lib/modules/*/kernel/drivers/md/dm-mod.ko"))
    cpio.file("conf/dm-mod.ko", module.read_bytes())
    cpio.file("scripts/local-top/groups", _START_GROUPS.encode(), 0o755)
    cpio.file("scripts/local-top/ORDER", _ORDER.encode())
    return cpio.getvalue()


_GRUB = Path("/usr/lib/grub/i386-pc")
_GRUB_CONFIG = """set timeout=0
linux /{kernel} root=/dev/vda3 rootfstype=xfs rw console=ttyS0 no_timer_check
initrd /{initrd}
boot
"""
_GRUB_START = "set root=(hd0,gpt2)\nset prefix=($root)/grub\nconfigfile $prefix/grub.cfg\n"
_GRUB_MODULES = ("biosdisk", "part_gpt", "ext2", "configfile", "normal", "linux")
_SECTOR_OF_CORE = 0x5C
_LIST_OF_CORE = 500
_BOOT_CODE = 440


def on_partitions(raw: Path, folder: Path) -> Made:
    """XFS behind a /boot of its own, from which GRUB starts the kernel."""
    if not (_GRUB / "boot.img").is_file():
        pytest.skip("grub-pc-bin is not installed: scripts/install-packages test")
    tree = files(raw, folder)
    boot = folder / "boot"
    shutil.move(tree / "boot", boot)
    (tree / "boot").mkdir()
    (boot / "grub").mkdir()
    kernel = next(boot.glob("vmlinuz-*")).name
    initrd = next(boot.glob("initrd.img-*")).name
    config = _GRUB_CONFIG.format(kernel=kernel, initrd=initrd)
    (boot / "grub/grub.cfg").write_text(config)
    own = sparse(folder / "boot.ext4", 256 * MIB)
    run("mkfs.ext4", "-q", "-F", "-d", boot, own)
    root = make_xfs(folder / "root.xfs", tree, _SIZE)
    disk = _with_grub(folder / "gpt", own, root, folder)
    # the disk alone decides what is started
    return disk, {"kernel": "", "initrd": "", "cmdline": ""}


def _with_grub(disk: Path, boot: Path, root: Path, folder: Path) -> Path:
    """GRUB's own partition, /boot and the root, as grub-install leaves them."""
    early, core = folder / "early.cfg", folder / "core.img"
    early.write_text(_GRUB_START)
    options = ("-O", "i386-pc", "-p", "(hd0,gpt2)/grub", "-c", early, "-o", core)
    run("grub-mkimage", *options, *_GRUB_MODULES)
    content = bytearray(core.read_bytes())
    first = MIB // SECTOR
    struct.pack_into("<QH", content, _LIST_OF_CORE, first + 1, -(-len(content) // SECTOR) - 1)
    core.write_bytes(content)
    start = bytearray((_GRUB / "boot.img").read_bytes())
    struct.pack_into("<Q", start, _SECTOR_OF_CORE, first)
    with_gpt(disk, [core, boot, root])
    with disk.open("r+b") as file:
        file.write(start[:_BOOT_CODE])  # the table's own fields and signature follow
    return disk


LAYOUTS: dict[str, Callable[[Path, Path], Made]] = {
    "xfs": on_xfs,
    "btrfs": on_btrfs,
    "lvm": on_volume_group,
    "gpt, /boot apart": on_partitions,
}
"""From the raw disk of Debian's image and an empty folder."""
