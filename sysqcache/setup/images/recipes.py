# SPDX-License-Identifier: GPL-2.0-or-later
"""What each Debian image is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sysqcache.base.types import ArchName

RELEASE: Final = "bookworm"

_BASE: Final = (
    "systemd", "systemd-sysv", "dbus", "udev", "kmod", "iproute2", "passwd",
    "zstd",  # packs the initial RAM disk
    "qemu-guest-agent",
)  # fmt: skip
_SYSTEM: Final = (*_BASE, "linux-image-cloud-amd64", "openssh-server")

_NETWORK_AND_DISK: Final = ("virtio_pci", "virtio_blk", "virtio_net", "af_packet")


@dataclass(frozen=True)
class DiskLayout:
    """How the disk of an image is laid out.

    :param size: of the disk, in bytes.
    :param uuid: of the root file system. Fixed, so that two builds of the same packages
        differ as little as possible.
    :param options: for mkfs.ext4.
    :param swap: size in bytes of a swap partition before the root partition, on a disk with
        a GPT; 0: the root file system fills a disk without partitions.
    """

    size: int
    uuid: str
    options: tuple[str, ...] = ()
    swap: int = 0


@dataclass(frozen=True)
class DebianRecipe:
    """A system that mmdebstrap installs.

    :param packages: what is installed besides Debian's essential packages, the kernel
        included.
    :param files: directories of ``data`` that are laid over the system, after ``debian``;
        the last one holds what tells the machine from others.
    """

    packages: tuple[str, ...]
    files: tuple[str, ...]
    layout: DiskLayout
    arch: ArchName = ArchName.X86_64


@dataclass(frozen=True)
class TinyRecipe:
    """A kernel, and busybox in an initial RAM disk.

    :param kernel: the metapackage that depends on the kernel's package.
    :param modules: disk, network, and the power button that `sysqcache stop` presses;
        those that the kernel has built in are passed over.
    :param release: Debian's release.
    """

    arch: ArchName
    kernel: str
    modules: tuple[str, ...]
    release: str = RELEASE


@dataclass(frozen=True)
class UpgradedRecipe:
    """Another image in which one package has another version.

    :param base: name of that image; its disk is one ext4 file system.
    :param package: has more than one version in Debian's archive.
    """

    base: str
    package: str
    arch: ArchName = ArchName.X86_64


Recipe = DebianRecipe | TinyRecipe | UpgradedRecipe

RECIPES: Final[Mapping[str, Recipe]] = {
    "debian12-x86_64": DebianRecipe(
        (*_SYSTEM, "nginx", "gcc", "libc6-dev", "python3", "perl"),
        ("work", "debian12-x86_64"),
        DiskLayout(4 << 30, "5f2d1c0e-7c1b-4d57-9f6e-0d1f2a3b4c5d"),
    ),
    "debian12-x86_64-other": DebianRecipe(
        (*_SYSTEM, "redis-server", "rsyslog", "cron", "luajit", "php-cli", "git", "vim", "sqlite3"),
        ("debian12-x86_64-other",),
        DiskLayout(
            3 << 30,
            "c81f9a36-2b4e-4f0d-8a55-71e6d09b3f42",
            options=("-b", "1024", "-O", "^64bit"),
            swap=256 << 20,
        ),
    ),
    "debian12-x86_64-upgraded": UpgradedRecipe("debian12-x86_64", "libssl3"),
    # the same work, and no more than it needs: foreign code installs it, slowly
    "debian12-arm64": DebianRecipe(
        (*_BASE, "linux-image-cloud-arm64", "gcc", "libc6-dev", "python3", "perl"),
        ("work", "debian12-arm64"),
        DiskLayout(3 << 30, "0b6f0d52-94f4-4c0e-9d6b-3a7c1e58d2f4"),
        ArchName.AARCH64,
    ),
    "tiny-x86_64": TinyRecipe(
        ArchName.X86_64, "linux-image-cloud-amd64", (*_NETWORK_AND_DISK, "button", "evdev")
    ),
    "tiny-arm64": TinyRecipe(
        ArchName.AARCH64,
        "linux-image-cloud-arm64",
        (*_NETWORK_AND_DISK, "gpio_pl061", "gpio_keys", "evdev", "qemu_fw_cfg"),
    ),
    # Debian 12 has no riscv64
    "tiny-riscv64": TinyRecipe(
        ArchName.RISCV64,
        "linux-image-riscv64",
        (*_NETWORK_AND_DISK, "gpio_keys", "evdev", "qemu_fw_cfg"),
        release="trixie",
    ),
}
"""Image -> what it is made of."""
