# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian guest of the suites: debian12-x86_64 with the packages that bring tests.

It is built by what builds the project's own images, once, and kept in the cache directory; it is
no image that ``sysqcache image build`` offers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.base.errors import ImageBuildError
from sysqcache.setup import hostpackages
from sysqcache.setup.apt import sources
from sysqcache.setup.images import debian
from sysqcache.setup.work import Listener, Work, alone, published, scratch
from sysqcache.spec import catalog
from sysqcache.spec.engines import any_qemu_img
from sysqcache.spec.recipe import DebianRecipe, find

PACKAGES: Final = ("stress-ng", "libpython3.11-testsuite", "tcl8.6")
_BASE: Final = "debian12-x86_64"
_NAME: Final = "bench-verdicts"
_EXTRA_ROOM: Final = 1 << 30


def recipe() -> DebianRecipe:
    """The project's own image, with more packages and a larger disk."""
    base = find(_BASE).recipe
    assert isinstance(base, DebianRecipe)
    disk = base.disk.model_copy(update={"size": base.disk.size + _EXTRA_ROOM})
    return base.model_copy(update={"packages": (*base.packages, *PACKAGES), "disk": disk})


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
    archives = sources.for_release(sources.read_sources(), recipe().suite)
    sources.require(archives, ImageBuildError)
    work = Work(paths.logs_dir() / f"image-{_NAME}.log", ImageBuildError, listener)
    with (
        alone(paths.build_lock(), listener),
        published(target) as output,
        scratch(paths.downloads_dir(), "image") as rough,
    ):
        with work.step("install Debian's packages"):
            root = debian.bootstrap(find(_BASE), recipe(), archives, rough, work)
        with work.step("make the disk"):
            debian.make_files(recipe(), root, rough, output, any_qemu_img(), work)
    return target


def config(image: Path, disks: Sequence[Path]) -> str:
    """The vm.yaml of a machine that starts from ``image`` and has ``disks``, read-only."""
    more = "".join(f"  - {{file: {disk}, format: raw, mode: read-only}}\n" for disk in disks)
    return (
        "name: verdicts\narch: x86_64\nmemory: 2GiB\n"
        f"kernel: {image / catalog.KERNEL}\ninitrd: {image / catalog.INITRD}\n"
        "cmdline: root=/dev/vda rw console=ttyS0 no_timer_check\n"
        f"disks:\n  - file: {image / catalog.DISK}\n{more}"
        'ready: {pattern: "sysqcache: ready", timeout: 300s}\n'
        "agent: guest-agent\n"
    )
