# SPDX-License-Identifier: GPL-2.0-or-later
"""The firmware that machines need, from Debian's packages.

Debian's QEMU source is stripped of firmware, and bookworm's SeaBIOS 1.16.2 makes
QEMU 10.0 wait 32 s on q35; the files are taken from the suite of the source.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sysqcache.apt.private import PrivateApt
from sysqcache.errors import EngineBuildError

FILES: Final[Mapping[str, tuple[str, ...]]] = {
    "seabios": ("bios-256k.bin", "bios-microvm.bin", "vgabios-stdvga.bin", "vgabios-virtio.bin"),
    "qemu-system-data": (
        "kvmvapic.bin",
        "linuxboot.bin",
        "linuxboot_dma.bin",
        "multiboot.bin",
        "multiboot_dma.bin",
        "pvh.bin",
    ),
    "ipxe-qemu": ("efi-virtio.rom", "efi-e1000.rom"),
}
"""Debian package -> the files of it that go into ``share/qemu``."""


def install(apt: PrivateApt, scratch: Path, target: Path) -> dict[str, str]:
    """Copy every file of FILES into ``target``; gives package -> version.

    :raises EngineBuildError: a package lacks one of its files.
    """
    target.mkdir(parents=True, exist_ok=True)
    versions = {}
    for package, deb in zip(FILES, apt.download(*FILES), strict=True):
        tree = scratch / package
        apt.unpack(deb, tree)
        versions[package] = deb.name.split("_")[1].replace("%3a", ":")
        for name in FILES[package]:
            shutil.copyfile(_find(tree, name, package), target / name)
    return versions


def in_tree(source: Path) -> bool:
    """Whether a source tree brings every file of FILES (a release archive does)."""
    return all((source / "pc-bios" / name).is_file() for name in _names())


def from_tree(source: Path, target: Path) -> dict[str, str]:
    """Copy every file of FILES from a source tree's ``pc-bios`` into ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    for name in _names():
        shutil.copyfile(source / "pc-bios" / name, target / name)
    return {"pc-bios": "as in the source"}


def _names() -> list[str]:
    return [name for names in FILES.values() for name in names]


def _find(tree: Path, name: str, package: str) -> Path:
    found = [path for path in sorted(tree.rglob(name)) if path.is_file()]
    if not found:
        raise EngineBuildError(f"Debian's package {package} has no {name}")
    return found[0]
