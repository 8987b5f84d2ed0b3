# SPDX-License-Identifier: GPL-2.0-or-later
"""The tiny guest: Debian's cloud kernel, and busybox in an initial RAM disk.

It needs seconds to build and runs no foreign code while it does.
"""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from sysqcache.apt.private import PrivateApt
from sysqcache.errors import ImageBuildError
from sysqcache.images.catalog import INITRD, KERNEL
from sysqcache.images.cpio import CpioWriter

KERNEL_META: Final = "linux-image-cloud-amd64"
MODULES: Final = ("virtio_pci", "virtio_blk", "virtio_net", "af_packet", "button", "evdev")
"""Disk, network, and the power button that `sysqcache stop` presses."""


@dataclass(frozen=True)
class TinyParts:
    """What was built: the kernel's release and the packages used, ``name_version``."""

    kernel_release: str
    packages: tuple[str, ...]


def build(apt: PrivateApt, scratch: Path, target: Path) -> TinyParts:
    """Write kernel and initrd of the tiny guest into ``target``.

    :raises ImageBuildError: a package has not the expected contents.
    """
    kernel_package = next(
        (name for name in apt.depends(KERNEL_META) if name.startswith("linux-image-")), ""
    )
    if not kernel_package:
        raise ImageBuildError(f"{KERNEL_META} depends on no kernel package")
    debs = apt.download(kernel_package, "busybox-static")
    for deb in debs:
        apt.unpack(deb, scratch)
    kernel = _one(scratch, "boot/vmlinuz-*")
    release = kernel.name.removeprefix("vmlinuz-")
    (target / KERNEL).write_bytes(kernel.read_bytes())
    archive = _initrd(scratch, _one(scratch, f"**/lib/modules/{release}"))
    # level 1 and no time stamp: quick to unpack, and equal inputs give equal bytes
    (target / INITRD).write_bytes(gzip.compress(archive, 1, mtime=0))
    return TinyParts(release, tuple(deb.stem for deb in debs))


def _one(root: Path, pattern: str) -> Path:
    found = sorted(root.glob(pattern))
    if not found:
        raise ImageBuildError(f"no {pattern} in the unpacked packages")
    return found[-1]


def _initrd(root: Path, modules: Path) -> bytes:
    cpio = CpioWriter()
    for name in ("proc", "sys", "dev", "tmp", "root", "sbin", "usr/bin", "usr/sbin"):
        cpio.directory(name)
    cpio.device("dev/console", 5, 1)
    cpio.file("bin/busybox", _one(root, "**/bin/busybox").read_bytes(), 0o755)
    cpio.symlink("bin/sh", "busybox")
    files = {path.stem.replace("-", "_"): path for path in modules.rglob("*.ko")}
    order = load_order(MODULES, files)
    for name in order:
        cpio.file(f"lib/modules/{name}.ko", files[name].read_bytes())
    cpio.file("lib/modules/order", "".join(f"{name}.ko\n" for name in order).encode())
    with resources.as_file(resources.files("sysqcache.images") / "data" / "tiny") as data:
        cpio.tree(data)
    return cpio.getvalue()


def load_order(wanted: tuple[str, ...], files: dict[str, Path]) -> list[str]:
    """Names of ``wanted`` modules and what they depend on, dependencies first.

    :param files: module name -> ``.ko`` file; a wanted module that is not there is
        taken to be built into the kernel.
    """
    order: list[str] = []
    for name in wanted:
        if name in order or name not in files:
            continue
        for before in load_order(dependencies(files[name].read_bytes()), files):
            if before not in order:
                order.append(before)
        order.append(name)
    return order


def dependencies(module: bytes) -> tuple[str, ...]:
    """Names in the ``depends=`` line of a kernel module's .modinfo section."""
    match = re.search(rb"\0depends=([^\0]*)\0", module)
    names = match.group(1).decode() if match else ""
    return tuple(name.replace("-", "_") for name in names.split(",") if name)
