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
from sysqcache.images import catalog, debian, tiny, upgraded
from sysqcache.images.recipes import RECIPES, UpgradedRecipe
from sysqcache.work import Listener, Work, alone, ignore, published, require_space, scratch

SPACE: Final = 4_000_000_000
TINY_SPACE: Final = 1_000_000_000
Parts = debian.DebianParts | tiny.TinyParts


def build(name: str, *, force: bool = False, listener: Listener = ignore) -> catalog.ImagePaths:
    """Build the image ``name`` unless it is built already; gives its files.

    An image that is made from another one has that built first. After a failure an older
    build of the image is as it was.
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
    recipe = RECIPES.get(name)
    if isinstance(recipe, UpgradedRecipe):
        build(recipe.base, listener=listener)
    space = SPACE if recipe else TINY_SPACE
    require_space(target, space, f"building {name}", ImageBuildError)
    with alone(paths.build_lock(), listener):
        if force or not (target / catalog.META).is_file():
            _build(name, archives, target, listener)
    return catalog.resolve(name)


def _build(name: str, archives: list[sources.Source], target: Path, listener: Listener) -> None:
    work = Work(paths.logs_dir() / f"image-{name}.log", ImageBuildError, listener)
    with published(target) as output, scratch(paths.downloads_dir(), "image") as directory:
        if name in RECIPES:
            hostpackages.require("image")
            parts = _debian(name, archives, directory, output, work)
        else:
            parts = _tiny(archives, directory, output, work)
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
    name: str, archives: list[sources.Source], directory: Path, output: Path, work: Work
) -> Parts:
    recipe = RECIPES[name]
    qemu_img = any_qemu_img()
    if isinstance(recipe, UpgradedRecipe):
        apt = _apt(archives, directory, work)
        with work.step(f"change {recipe.package}"):
            return upgraded.build(recipe, apt, directory, output, qemu_img, work)
    with work.step("install Debian's packages"):
        root = debian.bootstrap(recipe, archives, directory, work)
    with work.step("make the disk"):
        return debian.make_files(recipe, root, directory, output, qemu_img, work)


def _tiny(archives: list[sources.Source], directory: Path, output: Path, work: Work) -> Parts:
    apt = _apt(archives, directory, work)
    with work.step("make kernel and initial RAM disk"):
        return tiny.build(apt, directory / "unpacked", output)


def _apt(archives: list[sources.Source], directory: Path, work: Work) -> PrivateApt:
    apt = PrivateApt(directory / "apt", archives, work)
    with work.step("fetch the package lists"):
        apt.update()
    return apt


def _write_meta(name: str, output: Path, parts: Parts) -> None:
    packages = sorted(parts.packages)
    files = sorted(path for path in output.iterdir() if path.is_file())
    meta = {
        "name": name,
        "arch": "x86_64",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernel_release": parts.kernel_release,
        "packages": len(packages),
        "packages_sha256": hashlib.sha256("\n".join(packages).encode()).hexdigest(),
        "bytes": {path.name: path.stat().st_size for path in files},
    }
    if isinstance(parts, debian.DebianParts):
        meta |= parts.notes
    (output / catalog.META).write_text(json.dumps(meta, indent=1) + "\n")


def remove(name: str) -> None:
    """Delete the built image ``name``.

    :raises ImageMissing: it is not built.
    """
    catalog.resolve(name)
    shutil.rmtree(paths.images_dir() / name)
