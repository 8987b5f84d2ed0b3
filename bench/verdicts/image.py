# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian guest of the suites: debian12-x86_64 with the packages that bring tests.

It is built by what builds the project's own images, once, and kept in the cache directory; it is
no image that ``sysqcache image build`` offers.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sysqcache import hostpackages, paths
from sysqcache.apt import sources
from sysqcache.enginebuild.info import any_qemu_img
from sysqcache.errors import ImageBuildError
from sysqcache.images import catalog, debian
from sysqcache.images.recipes import RECIPES, RELEASE, DebianRecipe
from sysqcache.work import Listener, Work, alone, published, scratch

PACKAGES: Final = ("stress-ng", "libpython3.11-testsuite", "tcl8.6")
_BASE: Final = "debian12-x86_64"
_NAME: Final = "bench-verdicts"
_EXTRA_ROOM: Final = 1 << 30


def recipe() -> DebianRecipe:
    """The project's own image, with more packages and a larger disk."""
    base = RECIPES[_BASE]
    assert isinstance(base, DebianRecipe)
    layout = dataclasses.replace(base.layout, size=base.layout.size + _EXTRA_ROOM)
    return dataclasses.replace(base, packages=(*base.packages, *PACKAGES), layout=layout)


def directory() -> Path:
    """Where the image is; the name changes with the packages."""
    key = hashlib.sha256(" ".join(recipe().packages).encode()).hexdigest()[:12]
    return paths.cache_dir() / f"{_NAME}-{key}"


def build(listener: Listener) -> Path:
    """Build the image unless it is there; its directory.

    :raises ImageBuildError: a step failed.
    :raises SetupError: programs are missing.
    """
    target = directory()
    if (target / catalog.DISK).is_file():
        return target
    hostpackages.require("image")
    archives = sources.for_release(sources.read_sources(), RELEASE)
    if not archives:
        raise ImageBuildError("apt's configuration of this machine names no Debian mirror")
    work = Work(paths.logs_dir() / f"image-{_NAME}.log", ImageBuildError, listener)
    with (
        alone(paths.build_lock(), listener),
        published(target) as output,
        scratch(paths.downloads_dir(), "image") as rough,
    ):
        with work.step("install Debian's packages"):
            root = debian.bootstrap(recipe(), archives, rough, work)
        with work.step("make the disk"):
            debian.make_files(recipe(), root, rough, output, any_qemu_img(), work)
    return target


def config(image: Path, disks: Sequence[Path]) -> str:
    """The vm.yaml of a machine that starts from ``image`` and has ``disks``, read-only."""
    more = "".join(f"  - {{file: {disk}, format: raw, mode: read-only}}\n" for disk in disks)
    return (
        "name: verdicts\narch: x86_64\nmemory: 2GiB\n"
        f"kernel: {image / catalog.KERNEL}\ninitrd: {image / catalog.INITRD}\n"
        "cmdline: root=/dev/vda rw console=ttyS0\n"
        f"disks:\n  - file: {image / catalog.DISK}\n{more}"
        'ready: {pattern: "sysqcache: ready", timeout: 300s}\n'
        "agent: guest-agent\n"
    )
