# SPDX-License-Identifier: GPL-2.0-or-later
"""Building a guest image and publishing it in one step."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.base.errors import ImageBuildError
from sysqcache.setup import hostpackages
from sysqcache.setup.apt import sources
from sysqcache.setup.apt.private import PrivateApt
from sysqcache.setup.images import debian, foreign, tiny, upgraded
from sysqcache.setup.work import Listener, Work, alone, ignore, published, require_space, scratch
from sysqcache.spec import catalog
from sysqcache.spec.arch import get_arch
from sysqcache.spec.engines import any_qemu_img
from sysqcache.spec.recipe import (
    DebianRecipe,
    Image,
    Recipe,
    TinyRecipe,
    UpgradedRecipe,
    find,
)

SPACE: Final = 4_000_000_000
TINY_SPACE: Final = 1_000_000_000
Parts = debian.DebianParts | tiny.TinyParts


def build(name: str, *, force: bool = False, listener: Listener = ignore) -> catalog.ImagePaths:
    """Build an image unless it is built already; gives its files.

    An image that is made from another one has that built first. After a failure an older
    build of the image is as it was.
    :param name: of an image of ours, or the folder of another one.
    :param force: build it even when it is there.
    :raises ImageMissing: no image has this name, and no folder a recipe.
    :raises ConfigError: the recipe is wrong.
    :raises ImageBuildError: a step failed; the log's tail is in ``detail``.
    :raises SetupError: programs are missing.
    """
    image = find(name)
    target = paths.images_dir() / image.name
    if (target / catalog.META).is_file() and not force:
        return catalog.resolve(image.name)
    recipe = image.recipe
    archives = _archives(recipe)
    if isinstance(recipe, UpgradedRecipe):
        build(recipe.base, listener=listener)
    space = TINY_SPACE if isinstance(recipe, TinyRecipe) else SPACE
    require_space(target, space, f"building {image.name}", ImageBuildError)
    with alone(paths.build_lock(), listener):
        if force or not (target / catalog.META).is_file():
            _build(image, archives, target, listener)
    return catalog.resolve(image.name)


def _build(image: Image, archives: list[sources.Source], target: Path, listener: Listener) -> None:
    work = Work(paths.logs_dir() / f"image-{image.name}.log", ImageBuildError, listener)
    with published(target) as output, scratch(paths.downloads_dir(), "image") as directory:
        if isinstance(image.recipe, TinyRecipe):
            parts: Parts = _tiny(image, image.recipe, archives, directory, output, work)
        else:
            hostpackages.require("image")
            parts = _debian(image, image.recipe, archives, directory, output, work)
        _write_meta(image, output, parts)


def _archives(recipe: Recipe) -> list[sources.Source]:
    base = find(recipe.base).recipe if isinstance(recipe, UpgradedRecipe) else recipe
    assert not isinstance(base, UpgradedRecipe)
    archives = sources.for_release(sources.read_sources(), base.suite)
    return sources.require(archives, ImageBuildError)


def _debian(
    image: Image,
    recipe: DebianRecipe | UpgradedRecipe,
    archives: list[sources.Source],
    directory: Path,
    output: Path,
    work: Work,
) -> Parts:
    qemu_img = any_qemu_img()
    if isinstance(recipe, UpgradedRecipe):
        apt = _apt(recipe, archives, directory, work)
        with work.step(f"change {recipe.package}"):
            return upgraded.build(recipe, apt, directory, output, qemu_img, work)
    with work.step("install Debian's packages"), _able_to_run(recipe, work):
        root = debian.bootstrap(image, recipe, archives, directory, work)
    with work.step("make the disk"):
        return debian.make_files(recipe, root, directory, output, qemu_img, work)


def _able_to_run(recipe: DebianRecipe, work: Work) -> contextlib.AbstractContextManager[None]:
    """For as long as packages are being installed, this machine runs the image's programs."""
    if recipe.arch == platform.machine():
        return contextlib.nullcontext()
    return foreign.programs(get_arch(recipe.arch), work)


def _tiny(
    image: Image,
    recipe: TinyRecipe,
    archives: list[sources.Source],
    directory: Path,
    output: Path,
    work: Work,
) -> Parts:
    apt = _apt(recipe, archives, directory, work)
    with work.step("make kernel and initial RAM disk"):
        return tiny.build(image, recipe, apt, directory / "unpacked", output, work)


def _apt(recipe: Recipe, archives: list[sources.Source], directory: Path, work: Work) -> PrivateApt:
    architecture = get_arch(recipe.arch).debian_name
    apt = PrivateApt(directory / "apt", archives, work, architecture)
    with work.step("fetch the package lists"):
        apt.update()
    return apt


def _write_meta(image: Image, output: Path, parts: Parts) -> None:
    packages = sorted(parts.packages)
    files = sorted(path for path in output.iterdir() if path.is_file())
    meta = {
        "name": image.name,
        "arch": image.recipe.arch,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "kernel_release": parts.kernel_release,
        "packages": len(packages),
        "packages_sha256": hashlib.sha256("\n".join(packages).encode()).hexdigest(),
        "bytes": {path.name: path.stat().st_size for path in files},
    }
    if isinstance(parts, debian.DebianParts):
        meta |= parts.notes
    if not image.own:
        meta |= {"description": image.recipe.description, "recipe": str(image.folders[-1])}
    (output / catalog.META).write_text(json.dumps(meta, indent=1) + "\n")
