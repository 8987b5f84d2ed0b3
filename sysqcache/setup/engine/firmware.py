# SPDX-License-Identifier: GPL-2.0-or-later
"""The firmware that machines need, from Debian's packages.

Debian's QEMU source is stripped of firmware, and bookworm's SeaBIOS 1.16.2 makes
QEMU 10.0 wait 32 s on q35; the files are taken from the suite of the source.
"""

from __future__ import annotations

import bz2
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from sysqcache.base.errors import EngineBuildError
from sysqcache.setup.apt.private import PrivateApt
from sysqcache.spec.arch import EFI_AARCH64, OPENSBI_RISCV64

KEYMAPS: Final = "keymaps"
"""A directory: without the file of its layout, a display over VNC ends QEMU at its start."""

_DEVICES: Final = {
    "ipxe-qemu": (
        "efi-e1000.rom",
        "efi-e1000e.rom",
        "efi-pcnet.rom",
        "efi-rtl8139.rom",
        "efi-virtio.rom",
        "efi-vmxnet3.rom",
        "pxe-eepro100.rom",
    ),
    "seabios": (
        "vgabios-ati.bin",
        "vgabios-bochs-display.bin",
        "vgabios-cirrus.bin",
        "vgabios-ramfb.bin",
        "vgabios-stdvga.bin",
        "vgabios-virtio.bin",
        "vgabios-vmware.bin",
        "vgabios.bin",
    ),
    "qemu-system-data": (KEYMAPS,),
}
"""What devices load that any machine may have: QEMU does not start without it."""

FILES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "x86_64": {
        "seabios": ("bios-256k.bin", "bios-microvm.bin"),
        "qemu-system-data": (
            "kvmvapic.bin",
            "linuxboot.bin",
            "linuxboot_dma.bin",
            "multiboot.bin",
            "multiboot_dma.bin",
            "pvh.bin",
        ),
    },
    "aarch64": {"qemu-efi-aarch64": (EFI_AARCH64,)},
    "riscv64": {"opensbi": (OPENSBI_RISCV64,)},
}
"""Target -> Debian package -> the files of it that go into ``share/qemu``, by QEMU's names,
besides what devices need.
"""

_DEBIAN_NAMES: Final[Mapping[str, str]] = {
    # not AAVMF_CODE.fd, which is the same with 61 MiB of padding
    EFI_AARCH64: "qemu-efi-aarch64/QEMU_EFI.fd",
    OPENSBI_RISCV64: "riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin",
}
"""Names in Debian's packages, where they differ."""


def install(apt: PrivateApt, targets: Sequence[str], scratch: Path, target: Path) -> dict[str, str]:
    """Copy the files of FILES that ``targets`` need into ``target``; gives package -> version.

    :raises EngineBuildError: a package lacks one of its files.
    """
    target.mkdir(parents=True, exist_ok=True)
    packages = needed(targets)
    versions = {}
    for package, deb in zip(packages, apt.download(*packages), strict=True):
        tree = scratch / package
        apt.unpack(deb, tree)
        versions[package] = deb.name.split("_")[1].replace("%3a", ":")
        for name in packages[package]:
            _copy(_find(tree, name, package), target / name)
    return versions


def needed(targets: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Debian package -> files, for all of ``targets`` together."""
    found: dict[str, tuple[str, ...]] = {}
    for packages in (*(FILES[target] for target in targets), _DEVICES):
        for package, names in packages.items():
            found[package] = (*found.get(package, ()), *names)
    return found


def missing(targets: Sequence[str], directory: Path) -> list[str]:
    """What ``targets`` need and ``directory`` has not."""
    return [name for name in _names(targets) if not (directory / name).exists()]


def in_tree(source: Path, targets: Sequence[str]) -> bool:
    """Whether a source tree brings every file that is needed (a release archive does)."""
    return all(_in_tree(source, name) is not None for name in _names(targets))


def from_tree(source: Path, targets: Sequence[str], target: Path) -> dict[str, str]:
    """Copy every file that is needed from a source tree's ``pc-bios`` into ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    for name in _names(targets):
        file = _in_tree(source, name)
        assert file is not None
        if file.suffix == ".bz2":
            (target / name).write_bytes(bz2.decompress(file.read_bytes()))
        else:
            _copy(file, target / name)
    return {"pc-bios": "as in the source"}


def _in_tree(source: Path, name: str) -> Path | None:
    """The file in a source tree; EFI firmware is packed there."""
    found = [source / "pc-bios" / name, source / "pc-bios" / f"{name}.bz2"]
    return next((path for path in found if _is_it(path, name)), None)


def _names(targets: Sequence[str]) -> list[str]:
    return [name for names in needed(targets).values() for name in names]


def _find(tree: Path, name: str, package: str) -> Path:
    pattern = _DEBIAN_NAMES.get(name, name)
    found = [path for path in sorted(tree.rglob(pattern)) if _is_it(path, name)]
    if not found:
        raise EngineBuildError(f"Debian's package {package} has no {pattern}")
    return found[0]


def _is_it(path: Path, name: str) -> bool:
    return path.is_dir() if name == KEYMAPS else path.is_file()


def _copy(source: Path, target: Path) -> None:
    """A file, or a directory without what only the build of QEMU needs."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("meson.build"))
    else:
        shutil.copyfile(source, target)
