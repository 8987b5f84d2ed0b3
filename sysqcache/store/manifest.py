# SPDX-License-Identifier: GPL-2.0-or-later
"""``boot-sets.json``: which packs the next starts map, read without RocksDB.

RocksDB admits one writing process, and a boot must wait for nobody. Whoever
commits metadata replaces this file atomically afterwards. ``generation`` is the
commit that it shows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from sysqcache.errors import FormatError
from sysqcache.mapfile import read_private
from sysqcache.store.layout import Layout, replace_file
from sysqcache.store.records import FingerprintRow, ImageRow, PackRow

MAX_FINGERPRINTS: Final = 4
"""So many fingerprints of one architecture enter a boot set; others cost open(2) calls."""

_MAX_BYTES: Final = 64 << 20


@dataclass(frozen=True)
class Manifest:
    """What the last commit left; ``packs`` are the live ones, oldest first."""

    generation: int = -1
    packs: tuple[PackRow, ...] = ()
    fingerprints: tuple[FingerprintRow, ...] = ()
    images: tuple[ImageRow, ...] = field(default=())

    @classmethod
    def of(
        cls,
        generation: int,
        packs: Iterable[PackRow],
        fingerprints: Iterable[FingerprintRow],
        images: Iterable[ImageRow],
    ) -> Manifest:
        """The manifest of all rows of the metadata."""
        live = sorted((p for p in packs if p.live), key=lambda p: (p.created, p.sha256))
        return cls(generation, tuple(live), tuple(fingerprints), tuple(images))

    def encode(self) -> bytes:
        """The file's content."""
        return json.dumps({"version": 1, **asdict(self)}, indent=1).encode()

    @classmethod
    def decode(cls, content: bytes) -> Manifest:
        """The inverse. Raises FormatError."""
        try:
            values: dict[str, Any] = json.loads(content)
            return cls(
                int(values["generation"]),
                tuple(PackRow.from_values(v) for v in values["packs"]),
                tuple(FingerprintRow.from_values(v) for v in values["fingerprints"]),
                tuple(ImageRow.from_values(v) for v in values["images"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise FormatError(f"the list of boot sets can't be read: {error}") from error

    def ordered_fingerprints(self, image_id: str, arch: str) -> list[str]:
        """Fingerprints of ``arch``: those that the image ran with first, then the latest."""
        own: dict[str, int] = {}
        for image in self.images:
            if image.image_id == image_id:
                own = {f: rank for rank, f in enumerate(image.fingerprints)}
        rows = [f for f in self.fingerprints if f.arch == arch]
        rows.sort(key=lambda f: (own.get(f.fingerprint, len(own)), -f.last_used))
        return [f.fingerprint for f in rows]

    def boot_set(self, image_id: str, arch: str) -> list[PackRow]:
        """Live packs of the first few fingerprints, in the order to be mapped."""
        chosen = self.ordered_fingerprints(image_id, arch)[:MAX_FINGERPRINTS]
        return [p for f in chosen for p in self.packs if p.fingerprint == f]


def read_manifest(layout: Layout) -> Manifest:
    """The current manifest; an empty one (generation -1) when there is none.

    Raises FormatError when the file is damaged or not ours alone.
    """
    path: Path = layout.boot_sets
    if not path.exists():
        return Manifest()
    content, size = read_private(path, _MAX_BYTES)
    if size > len(content):
        raise FormatError(f"{path} is too large")
    return Manifest.decode(content)


def write_manifest(layout: Layout, manifest: Manifest) -> None:
    """Replace the manifest atomically. Raises OSError."""
    replace_file(layout.boot_sets, manifest.encode())
