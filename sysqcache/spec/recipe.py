# SPDX-License-Identifier: GPL-2.0-or-later
"""What an image is made of: the ``image.yaml`` of its folder, checked, and the files beside it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from sysqcache.base.errors import ConfigError, ImageMissing
from sysqcache.base.types import ArchName
from sysqcache.spec import vmyaml
from sysqcache.spec.schema import NAME_PATTERN, Section, Size, Uuid, Word

RECIPE: Final = "image.yaml"
HOME: Final = Path(__file__).with_name("images")
"""The folders of our own images: a link in a checkout, data of the package elsewhere."""

_FILES: Final = "files"
_SETUP: Final = "setup.sh"
_SOURCES: Final = "src/*.c"
_HINT: Final = "images/README.md says what each field means"


class DiskLayout(Section):
    """How the disk of an image is laid out.

    :param size: of the disk, in bytes.
    :param uuid: of the root file system. Fixed, so that two builds of the same packages
        differ as little as possible.
    :param mkfs: options for mkfs.ext4.
    :param swap: size in bytes of a swap partition before the root partition, on a disk with
        a GPT; 0: the root file system fills a disk without partitions.
    """

    size: Size
    uuid: Uuid
    mkfs: tuple[str, ...] = ()
    swap: Size = Field("0MiB")  # type: ignore[assignment]


class _Made(Section):
    """What all recipes have."""

    description: str = ""
    arch: ArchName = ArchName.X86_64


class _Installed(_Made):
    """A system with a kernel from Debian's archive.

    :param suite: Debian's release.
    :param kernel: the package of the kernel, or a metapackage that depends on it.
    :param like: another image whose set-up and files come before those of this one.
    """

    suite: Word
    kernel: Word
    like: str = ""


class DebianRecipe(_Installed):
    """A system that mmdebstrap installs.

    :param packages: what is installed besides Debian's essential packages and the kernel.
    """

    kind: Literal["debian"]
    packages: tuple[Word, ...]
    disk: DiskLayout


class TinyRecipe(_Installed):
    """A kernel, and busybox in an initial RAM disk.

    :param modules: in the order in which they are loaded; those that the kernel has built in
        are passed over.
    :param packages: where ``programs`` come from.
    :param programs: files of these packages, such as usr/sbin/lvm; their libraries come along.
    """

    kind: Literal["tiny"]
    modules: tuple[Word, ...]
    packages: tuple[Word, ...] = ()
    programs: tuple[str, ...] = ()


class UpgradedRecipe(_Made):
    """Another image in which one package has another version.

    :param base: name of that image; its disk is one ext4 file system.
    :param package: has more than one version in Debian's archive.
    """

    kind: Literal["upgraded"]
    base: str
    package: Word


Recipe = DebianRecipe | TinyRecipe | UpgradedRecipe
_KINDS: Final[dict[object, type[Recipe]]] = {
    "debian": DebianRecipe, "tiny": TinyRecipe, "upgraded": UpgradedRecipe,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """A recipe and the folders that it is made from.

    :param folders: those of the images that it is like come first.
    """

    name: str
    recipe: Recipe
    folders: tuple[Path, ...]

    @property
    def own(self) -> bool:
        """Whether it is one of ours."""
        return self.folders[-1].parent == HOME

    @property
    def files(self) -> list[Path]:
        """Directories that are laid over the system, one after another."""
        return [tree for folder in self.folders if (tree := folder / _FILES).is_dir()]

    @property
    def sources(self) -> list[Path]:
        """C files, each of which becomes a program of the same name in /usr/local/bin."""
        return [file for folder in self.folders for file in sorted(folder.glob(_SOURCES))]

    @property
    def scripts(self) -> list[Path]:
        """Set-up scripts, in their order."""
        return [script for folder in self.folders if (script := folder / _SETUP).is_file()]


def names() -> list[str]:
    """Names of our own images."""
    return sorted(file.parent.name for file in HOME.glob(f"*/{RECIPE}"))


def find(name: str) -> Image:
    """The recipe of one of our images, or of a folder, such as ``./my-image``.

    Raises :class:`ImageMissing` when there is none, :class:`ConfigError` for a wrong recipe.
    """
    if name in names():
        return _read(HOME / name)
    folder = Path(name)
    if not (folder / RECIPE).is_file():
        raise ImageMissing(f"there is no image {name!r}, and no {folder / RECIPE}")
    image = _read(folder.resolve())
    if image.name in names():
        raise ConfigError(f"{image.name} is the name of an image of sysqcache: rename {folder}")
    if not re.match(NAME_PATTERN, image.name):
        raise ConfigError(f"{image.name!r} can't be an image's name: letters, digits, . _ and -")
    return image


def _read(folder: Path) -> Image:
    document = vmyaml.read(folder / RECIPE)
    kind = document.data.get("kind")
    model = _KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        expected = f"expected one of {', '.join(str(known) for known in _KINDS)}"
        place = document.place(("kind",))
        raise vmyaml.config_error(document.file, [vmyaml.Problem(place, "kind", expected)], _HINT)
    recipe, problems = vmyaml.validated(document, model)
    if recipe is None:
        raise vmyaml.config_error(document.file, problems, _HINT)
    below: tuple[Path, ...] = ()
    upgraded = isinstance(recipe, UpgradedRecipe)
    field = "base" if upgraded else "like"
    if other := recipe.base if isinstance(recipe, UpgradedRecipe) else recipe.like:
        wrong = _unlike(recipe, other, folder.name)
        if wrong:
            place = document.place((field,))
            raise vmyaml.config_error(document.file, [vmyaml.Problem(place, field, wrong)], _HINT)
        below = () if upgraded else _read(HOME / other).folders
    return Image(folder.name, recipe, (*below, folder))


def _unlike(recipe: Recipe, other: str, name: str) -> str:
    """Why an image can't be made from another one, or ""."""
    if other not in names() or other == name:
        return f"expected one of {', '.join(one for one in names() if one != name)}"
    below = _read(HOME / other).recipe
    kind = "debian" if isinstance(recipe, UpgradedRecipe) else recipe.kind
    if below.kind != kind:
        return f"{other} is of the kind {below.kind}"
    if isinstance(below, DebianRecipe) and isinstance(recipe, UpgradedRecipe) and below.disk.swap:
        return f"the disk of {other} has partitions"
    return ""
