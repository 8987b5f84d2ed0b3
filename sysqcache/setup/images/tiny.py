# SPDX-License-Identifier: GPL-2.0-or-later
"""The tiny guest: Debian's kernel, and busybox in an initial RAM disk.

It needs seconds to build and runs no foreign code while it does.
"""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sysqcache.base.errors import ImageBuildError
from sysqcache.setup.apt.private import PrivateApt
from sysqcache.setup.images import programs
from sysqcache.setup.images.cpio import CpioWriter
from sysqcache.setup.work import Work
from sysqcache.spec.catalog import INITRD, KERNEL
from sysqcache.spec.recipe import Image, TinyRecipe

_KERNELS: Final = ("boot/vmlinu[xz]-*", "usr/lib/modules/*/vmlinu[xz]")
"""Where Debian has it, the latter since Linux 6.19; vmlinux where it does not unpack itself."""

_PARTS: Final = ("linux-binary-", "linux-modules-")
"""What a kernel's package depends on since Linux 6.19, instead of holding it itself."""


@dataclass(frozen=True)
class TinyParts:
    """What was built: the kernel's release and the packages used, ``name_version``."""

    kernel_release: str
    packages: tuple[str, ...]


def build(
    image: Image, recipe: TinyRecipe, apt: PrivateApt, scratch: Path, target: Path, work: Work
) -> TinyParts:
    """Write kernel and initrd of a tiny guest into ``target``.

    :param apt: of the recipe's release and architecture.
    :raises ImageBuildError: a package has not the expected contents, or a program of the
        image's own can't be compiled.
    """
    more = programs.packages(apt, recipe.packages)
    debs = apt.download(*kernel_packages(apt, recipe.kernel), "busybox-static", *more)
    for deb in debs:
        apt.unpack(deb, scratch)
    kernel = _one(scratch, *_KERNELS)
    release = kernel.name.partition("-")[2] or kernel.parent.name
    (target / KERNEL).write_bytes(kernel.read_bytes())
    modules = _one(scratch, f"**/lib/modules/{release}") if recipe.modules else scratch
    found = programs.installed(recipe.programs, scratch)
    found |= programs.compiled(image.sources, recipe.arch, scratch, work)
    archive = _initrd(image.files, recipe.modules, scratch, modules, found)
    # level 1 and no time stamp: quick to unpack, and equal inputs give equal bytes
    (target / INITRD).write_bytes(gzip.compress(archive, 1, mtime=0))
    return TinyParts(release, tuple(deb.stem for deb in debs))


def kernel_packages(apt: PrivateApt, kernel: str) -> tuple[str, ...]:
    """The packages with the files of ``kernel``, which may be a metapackage.

    :raises ImageBuildError: it depends on none.
    """
    depends = apt.depends(kernel)
    image = next((name for name in depends if name.startswith("linux-image-")), "")
    if image:
        kernel, depends = image, apt.depends(image)
    if not re.match(r"linux-image-\d", kernel):
        raise ImageBuildError(f"{kernel} depends on no kernel package")
    return kernel, *(name for name in depends if name.startswith(_PARTS))


def _one(root: Path, *patterns: str) -> Path:
    found = sorted(path for pattern in patterns for path in root.glob(pattern))
    if not found:
        raise ImageBuildError(f"no {' or '.join(patterns)} in the unpacked packages")
    return found[-1]


def _initrd(
    own: Sequence[Path],
    wanted: tuple[str, ...],
    root: Path,
    modules: Path,
    more: Mapping[str, Path],
) -> bytes:
    cpio = CpioWriter()
    for name in ("proc", "sys", "dev", "tmp", "root", "sbin", "usr/bin", "usr/sbin"):
        cpio.directory(name)
    cpio.device("dev/console", 5, 1)
    cpio.file("bin/busybox", _one(root, "**/bin/busybox").read_bytes(), 0o755)
    cpio.symlink("bin/sh", "busybox")
    found = [*modules.rglob("*.ko"), *modules.rglob("*.ko.xz")]
    files = {path.name.partition(".")[0].replace("-", "_"): path for path in found}
    order = load_order(wanted, files)
    for name in order:
        cpio.file(f"lib/modules/{name}.ko", module_bytes(files[name]))
    cpio.file("lib/modules/order", "".join(f"{name}.ko\n" for name in order).encode())
    for name, file in more.items():
        cpio.file(name, file.read_bytes(), 0o755)
    for tree in own:
        cpio.tree(tree)
    return cpio.getvalue()


def load_order(wanted: tuple[str, ...], files: dict[str, Path]) -> list[str]:
    """Names of ``wanted`` modules and what they depend on, dependencies first.

    :param files: module name -> its file; a wanted module that is not there is
        taken to be built into the kernel.
    """
    order: list[str] = []
    for name in wanted:
        if name in order or name not in files:
            continue
        for before in load_order(dependencies(module_bytes(files[name])), files):
            if before not in order:
                order.append(before)
        order.append(name)
    return order


def module_bytes(file: Path) -> bytes:
    """A module's ELF file; Debian 13 packs them with xz.

    :raises ImageBuildError: the file is damaged.
    """
    data = file.read_bytes()
    if file.suffix != ".xz":
        return data
    try:
        return lzma.decompress(data)
    except lzma.LZMAError as err:
        raise ImageBuildError(f"{file}: {err}") from err


def dependencies(module: bytes) -> tuple[str, ...]:
    """Names in the ``depends=`` line of a kernel module's .modinfo section."""
    match = re.search(rb"\0depends=([^\0]*)\0", module)
    names = match.group(1).decode() if match else ""
    return tuple(name.replace("-", "_") for name in names.split(",") if name)
