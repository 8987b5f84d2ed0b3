# SPDX-License-Identifier: GPL-2.0-or-later
"""Small files of ours that save work: they are believed when they are private and whole."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import xxhash

from sysqcache.attribution.imagescan import limits
from sysqcache.base import paths
from sysqcache.base.errors import FormatError
from sysqcache.base.files import make_directory, replacing
from sysqcache.base.mapfile import map_private

_HASH: Final = 16
_KEPT: Final = 64
"""Files of one kind that are kept; the ones that were written first go."""


def kept_file(kind: str, name: str) -> Path:
    """Where the file ``name`` of a kind lies."""
    return paths.scans_dir() / kind / name


def load(kind: str, name: str) -> memoryview | None:
    """The content of a file; None when there is none or it is damaged or not private."""
    try:
        view = map_private(kept_file(kind, name))
    except (FormatError, OSError):
        return None
    if not _HASH <= len(view) <= limits.CACHE_BYTES:
        return None
    content = view[_HASH:]
    return content if xxhash.xxh3_128_digest(content) == view[:_HASH] else None


def save(kind: str, name: str, content: bytes | memoryview) -> None:
    """Keep a file under its name; without a disk to write on nothing is kept."""
    file = kept_file(kind, name)
    with contextlib.suppress(OSError):
        make_directory(file.parent)
        with replacing(file) as stream:
            stream.write(xxhash.xxh3_128_digest(content))
            stream.write(content)
        _forget_old(file.parent)


def _forget_old(directory: Path) -> None:
    files = [(entry.stat().st_mtime, entry.path) for entry in os.scandir(directory)]
    for _, path in sorted(files)[:-_KEPT]:
        Path(path).unlink(missing_ok=True)
