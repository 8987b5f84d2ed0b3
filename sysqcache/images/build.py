# SPDX-License-Identifier: GPL-2.0-or-later
"""Building a guest image and publishing it in one step."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sysqcache import hostpackages, paths
from sysqcache.apt import sources
from sysqcache.apt.private import PrivateApt
from sysqcache.enginebuild.info import any_qemu_img
from sysqcache.errors import ImageBuildError
from sysqcache.images import catalog, debian, tiny
from sysqcache.work import Listener, Work, alone, ignore, published, require_space, scratch

SPACE: Final = {"debian12-x86_64": 4_000_000_000, "tiny-x86_64": 1_000_000_000}


def build(name: str, *, force: bool = False, listener: Listener = ignore) -> catalog.ImagePaths:
    """Build the image ``name`` unless it is built already; gives its files.

    After a failure an older build of the image is as it was.
    :param force: build it even when it is there.
    :raises ImageMissing: no image has this name.
    :raises ImageBuildError: a step failed; the log's tail is in ``detail``.
    :raises SetupError: programs are missing.
    """
    target = paths.images_dir() / name
    if name not in catalog.KNOWN:
        catalog.resolve(name)
    if (target / catalog.META).is_file() and not force:
        return catalog.resolve(name)
    if platform.machine() != "x86_64" and name.startswith("debian"):
        raise ImageBuildError(f"{name} can be built on x86_64 machines only")
    archives = _archives()
    require_space(target, SPACE[name], f"building {name}", ImageBuildError)
    with alone(paths.build_lock(), listener):
        if force or not (target / catalog.META).is_file():
            _build(name, archives, target, listener)
    return catalog.resolve(name)


def _build(name: str, archives: list[sources.Source], target: Path, listener: Listener) -> None:
    work = Work(paths.logs_dir() / f"image-{name}.log", ImageBuildError, listener)
    with published(target) as output, scratch(paths.downloads_dir(), "image") as directory:
        make = _debian if name.startswith("debian") else _tiny
        parts = make(archives, directory, output, work)
        _write_meta(name, output, parts)


def _archives() -> list[sources.Source]:
    archives = sources.for_release(sources.read_sources(), debian.RELEASE)
    if not archives:
        raise ImageBuildError(
            "apt's configuration of this machine names no Debian mirror",
            hint="add Debian's archive to /etc/apt/sources.list.d",
        )
    return archives


def _debian(
    archives: list[sources.Source], directory: Path, output: Path, work: Work
) -> debian.DebianParts | tiny.TinyParts:
    hostpackages.require("image")
    qemu_img = any_qemu_img()
    with work.step("install Debian's packages"):
        root = debian.bootstrap(archives, directory, work)
    with work.step("make the disk"):
        return debian.make_disk(root, directory, output, qemu_img, work)


def _tiny(
    archives: list[sources.Source], directory: Path, output: Path, work: Work
) -> debian.DebianParts | tiny.TinyParts:
    apt = PrivateApt(directory / "apt", archives, work)
    with work.step("fetch the package lists"):
        apt.update()
    with work.step("make kernel and initial RAM disk"):
        return tiny.build(apt, directory / "unpacked", output)


def _write_meta(name: str, output: Path, parts: debian.DebianParts | tiny.TinyParts) -> None:
    packages = sorted(parts.packages)
    files = sorted(path for path in output.iterdir() if path.is_file())
    meta = {
        "name": name,
        "arch": name.rsplit("-", 1)[-1],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernel_release": parts.kernel_release,
        "packages": len(packages),
        "packages_sha256": hashlib.sha256("\n".join(packages).encode()).hexdigest(),
        "bytes": {path.name: path.stat().st_size for path in files},
    }
    (output / catalog.META).write_text(json.dumps(meta, indent=1) + "\n")


def remove(name: str) -> None:
    """Delete the built image ``name``.

    :raises ImageMissing: it is not built.
    """
    catalog.resolve(name)
    shutil.rmtree(paths.images_dir() / name)
