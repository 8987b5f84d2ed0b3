# SPDX-License-Identifier: GPL-2.0-or-later
"""What each Debian image is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_SYSTEM: Final = (
    "systemd", "systemd-sysv", "dbus", "udev", "kmod", "iproute2", "passwd",
    "linux-image-cloud-amd64", "zstd",  # zstd packs the initial RAM disk
    "qemu-guest-agent", "openssh-server",
)  # fmt: skip


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

    :param packages: what is installed besides Debian's essential packages.
    :param files: directory of ``data`` that is laid over the system, after ``debian``.
    """

    packages: tuple[str, ...]
    files: str
    layout: DiskLayout


@dataclass(frozen=True)
class UpgradedRecipe:
    """Another image in which one package has another version.

    :param base: name of that image; its disk is one ext4 file system.
    :param package: has more than one version in Debian's archive.
    """

    base: str
    package: str


RECIPES: Final[Mapping[str, DebianRecipe | UpgradedRecipe]] = {
    "debian12-x86_64": DebianRecipe(
        (*_SYSTEM, "nginx", "gcc", "libc6-dev", "python3", "perl"),
        "debian12-x86_64",
        DiskLayout(4 << 30, "5f2d1c0e-7c1b-4d57-9f6e-0d1f2a3b4c5d"),
    ),
    "debian12-x86_64-other": DebianRecipe(
        (*_SYSTEM, "redis-server", "rsyslog", "cron", "luajit", "php-cli", "git", "vim", "sqlite3"),
        "debian12-x86_64-other",
        DiskLayout(
            3 << 30,
            "c81f9a36-2b4e-4f0d-8a55-71e6d09b3f42",
            options=("-b", "1024", "-O", "^64bit"),
            swap=256 << 20,
        ),
    ),
    "debian12-x86_64-upgraded": UpgradedRecipe("debian12-x86_64", "libssl3"),
}
"""Image -> what it is made of; the tiny image is made in tiny.py."""
