# SPDX-License-Identifier: GPL-2.0-or-later
"""Which images there are, which of them are built, and where their files are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.base.errors import ImageMissing

DISK: Final = "disk.qcow2"
KERNEL: Final = "kernel"
INITRD: Final = "initrd"
META: Final = "image.json"

KNOWN: Final[Mapping[str, str]] = {
    "debian12-x86_64": "Debian 12 with systemd, nginx, ssh, gcc, perl and python3",
    "debian12-x86_64-other": "Debian 12 with redis, php, luajit, git and vim on a partitioned disk",
    "debian12-x86_64-upgraded": "debian12-x86_64 with another version of OpenSSL",
    "debian12-arm64": "Debian 12 for arm64 with systemd, gcc, perl and python3",
    "tiny-x86_64": "Debian's kernel and busybox with a shell on the serial line",
    "tiny-arm64": "the same for arm64",
    "tiny-riscv64": "the same for riscv64, from Debian 13",
}
"""Name -> description of every image that `sysqcache image build` can make."""


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
    if name not in KNOWN:
        near = get_close_matches(name, KNOWN, 1)
        hint = f"did you mean {near[0]}?" if near else f"known images: {', '.join(KNOWN)}"
        raise ImageMissing(f"there is no image {name!r}", hint=hint)
    directory = paths.images_dir() / name
    if not (directory / META).is_file():
        raise ImageMissing(f"the image {name} is not built", hint=f"sysqcache image build {name}")

    def existing(file: str) -> Path | None:
        path = directory / file
        return path if path.is_file() else None

    return ImagePaths(name, existing(DISK), existing(KERNEL), existing(INITRD))


def list_images() -> list[ImageInfo]:
    """Every known image, built or not; a damaged one carries its error."""
    found = []
    for name, description in KNOWN.items():
        directory = paths.images_dir() / name
        try:
            meta, error = json.loads((directory / META).read_text()), ""
        except FileNotFoundError:
            meta, error = {}, ""
        except (OSError, ValueError) as err:
            meta, error = {}, f"{directory / META}: {err}"
        found.append(ImageInfo(name, description, directory, meta, error))
    return found
