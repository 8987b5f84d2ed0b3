# SPDX-License-Identifier: GPL-2.0-or-later
"""Which images there are, which of them are built, and where their files are."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.base.errors import ImageMissing
from sysqcache.spec import recipe

DISK: Final = "disk.qcow2"
KERNEL: Final = "kernel"
INITRD: Final = "initrd"
META: Final = "image.json"

HELPER: Final = "helper-x86_64"
"""The image of the machine that reads other machines' disks."""


@dataclass(frozen=True)
class ImagePaths:
    """Files of a built image; those that it does not have are None."""

    name: str
    disk: Path | None
    kernel: Path | None
    initrd: Path | None


@dataclass(frozen=True)
class ImageInfo:
    """What `image list` tells of an image.

    :param meta: contents of its image.json; empty when it is not built.
    :param error: why a built image can't be used, or "".
    """

    name: str
    description: str
    directory: Path
    meta: Mapping[str, object]
    error: str = ""

    @property
    def built(self) -> bool:
        """Whether its files are there."""
        return bool(self.meta) and not self.error


def resolve(name: str) -> ImagePaths:
    """Files of the built image ``name``.

    :raises ImageMissing: it is not built, or no image has this name.
    """
    directory = paths.images_dir() / name
    if not _is_built(directory):
        known = recipe.names()
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known images: {', '.join(known)}"
            raise ImageMissing(f"there is no image {name[:80]!r}", hint=hint)
        raise ImageMissing(f"the image {name} is not built", hint=f"sysqcache image build {name}")

    def existing(file: str) -> Path | None:
        path = directory / file
        return path if path.is_file() else None

    return ImagePaths(name, existing(DISK), existing(KERNEL), existing(INITRD))


def _is_built(directory: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):  # no folder can have such a name
        return (directory / META).is_file()
    return False


def list_images() -> list[ImageInfo]:
    """Every image of ours, built or not, and what users built; a damaged one carries its error."""
    ours = {name: recipe.find(name).recipe.description for name in recipe.names()}
    built = sorted(file.parent.name for file in paths.images_dir().glob(f"*/{META}"))
    found = []
    for name, description in (ours | {name: "" for name in built if name not in ours}).items():
        directory = paths.images_dir() / name
        try:
            meta, error = json.loads((directory / META).read_text()), ""
        except FileNotFoundError:
            meta, error = {}, ""
        except (OSError, ValueError) as err:
            meta, error = {}, f"{directory / META}: {err}"
        text = description or str(meta.get("description", ""))
        found.append(ImageInfo(name, text, directory, meta, error))
    return found
