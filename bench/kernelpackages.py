# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels of Debian's suites, each with the tiny image's initial RAM disk, and one that is no
Linux; kept in the cache."""

from __future__ import annotations

import dataclasses
import gzip
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, cast

from sysqcache.base import paths
from sysqcache.base.errors import ImageBuildError, SysqcacheError
from sysqcache.base.types import ArchName
from sysqcache.setup.apt import sources
from sysqcache.setup.apt.private import PrivateApt
from sysqcache.setup.images import tiny
from sysqcache.setup.work import Work, alone, ignore, published, scratch
from sysqcache.spec.arch import get_arch
from sysqcache.spec.recipe import TinyRecipe, find

SUITES: Final = ("bullseye", "bookworm", "bookworm-backports", "trixie", "trixie-backports", "sid")
IMAGES: Final = {"x86_64": "tiny-x86_64", "aarch64": "tiny-arm64", "riscv64": "tiny-riscv64"}
FLAVOURS: Final = {
    "x86_64": ("cloud-amd64", "amd64", "rt-amd64"),
    "aarch64": ("arm64", "cloud-arm64", "rt-arm64", "arm64-16k"),
    "riscv64": ("riscv64",),
}
"""Of each architecture, by the name that Debian's packages end in."""

_PACKAGE: Final = re.compile(r"linux-image-((\d+)\.(\d+)[\w.+~]*(?:-\d+)?)-([a-z].*)")


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class Kernel:
    """A package with a kernel.

    :param series: such as (6, 12).
    :param patch: all numbers of its version, by which those of a series are in order.
    :param arch: QEMU's name of the architecture.
    """

    series: tuple[int, int]
    patch: tuple[int, ...]
    package: str
    flavour: str
    suite: str
    arch: ArchName


def kernels_of(names: Sequence[str], suite: str, arch: ArchName) -> Iterator[Kernel]:
    """The kernels among the names of packages; debug and unsigned ones are left out."""
    for name in names:
        match = _PACKAGE.fullmatch(name)
        if match and match[4] in FLAVOURS[arch]:
            patch = tuple(int(one) for one in re.findall(r"\d+", match[1]))
            yield Kernel((int(match[2]), int(match[3])), patch, name, match[4], suite, arch)


def newest(kernels: Sequence[Kernel]) -> list[Kernel]:
    """The newest of each series and flavour, oldest series first."""
    return sorted({(one.series, one.flavour): one for one in sorted(kernels)}.values())


def available(arch: ArchName, *, update: bool) -> tuple[list[Kernel], list[str]]:
    """(kernels of all suites that can be had, what could not be asked).

    :param update: ask the mirror again, even if lists were fetched before.
    """
    found, problems = dict[str, Kernel](), list[str]()
    for suite in SUITES:
        try:
            apt = _apt(suite, arch, update=update)
            for one in kernels_of(apt.names("linux-image-"), suite, arch):
                found.setdefault(one.package, one)
        except SysqcacheError as error:
            problems.append(f"{suite}, {arch}: {error.message}")
    return newest(list(found.values())), problems


def _apt(suite: str, arch: ArchName, *, update: bool) -> PrivateApt:
    name = f"kernels-{suite}-{arch}"
    # backports lack what is not newer there
    suites = dict.fromkeys((suite.removesuffix("-backports"), suite))
    configured = sources.read_sources()
    archives = [one for name in suites for one in sources.for_suite(configured, name, "deb")]
    sources.require(archives, ImageBuildError)
    work = Work(paths.logs_dir() / f"{name}.log", ImageBuildError)
    with alone(paths.downloads_dir() / f"{name}.lock", ignore):
        apt = PrivateApt(paths.downloads_dir() / name, archives, work, get_arch(arch).debian_name)
        if update or not apt.has_lists:
            apt.update()
    return apt


def fetched(kernel: Kernel) -> Path:
    """Directory with ``kernel`` and ``initrd``, made when it is not there.

    :raises SysqcacheError: the package can't be had, or has not the expected contents.
    """
    target = paths.downloads_dir() / "kernels" / kernel.package
    image = find(IMAGES[kernel.arch])
    recipe = cast(TinyRecipe, image.recipe).model_copy(update={"kernel": kernel.package})
    with alone(target.with_name(f"{kernel.package}.lock"), ignore):
        if not target.exists():
            apt = _apt(kernel.suite, kernel.arch, update=False)
            if any(name.startswith("<linux-modules-") for name in apt.depends(kernel.package)):
                # backports drop the modules of old kernels, and keep the kernels
                recipe = recipe.model_copy(update={"modules": ()})
            with (
                scratch(paths.downloads_dir(), kernel.package) as unpacked,
                published(target) as output,
            ):
                work = Work(paths.logs_dir() / f"{kernel.package}.log", ImageBuildError)
                tiny.build(image, recipe, apt, unpacked, output, work)
            for deb in apt.root.glob("download/*.deb"):
                deb.unlink()
    return target


def xen() -> Path:
    """The newest Xen of Debian 12, unpacked: a multiboot kernel that is no Linux.

    :raises SysqcacheError: the package can't be had.
    """
    apt = _apt("bookworm", ArchName.X86_64, update=False)
    names = [name for name in apt.names("xen-hypervisor-4") if name.endswith("-amd64")]
    if not names:
        raise ImageBuildError("no archive has a package of Xen")
    target = paths.downloads_dir() / "kernels" / max(names)
    with alone(target.with_name(f"{target.name}.lock"), ignore):
        if not target.exists():
            with (
                scratch(paths.downloads_dir(), target.name) as unpacked,
                published(target) as output,
            ):
                [deb] = apt.download(target.name)
                apt.unpack(deb, unpacked)
                deb.unlink()
                [packed] = (unpacked / "boot").glob("xen-*-amd64.gz")
                (output / "xen.elf").write_bytes(gzip.decompress(packed.read_bytes()))
    return target / "xen.elf"
