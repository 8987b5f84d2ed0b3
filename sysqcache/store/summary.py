# SPDX-License-Identifier: GPL-2.0-or-later
"""What the store holds, as numbers for `cache list`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sysqcache import paths
from sysqcache.store.layout import Layout
from sysqcache.store.meta import Meta
from sysqcache.store.records import Module, ModuleShare, PackRow, PackStatus


@dataclass(frozen=True)
class StoreStats:
    """Sizes of the store; bytes are those of files on disk."""

    packs: int
    superseded: int
    blocks: int
    pack_bytes: int
    meta_bytes: int
    journals: int
    journal_bytes: int
    runs: int

    @property
    def bytes(self) -> int:
        """Packs and metadata together."""
        return self.pack_bytes + self.meta_bytes


def stats(layout: Layout, rows: list[PackRow], runs: int) -> StoreStats:
    """Count and measure. Raises OSError."""
    waiting = list(layout.journals.glob(f"*{paths.JOURNAL_SUFFIX}"))
    return StoreStats(
        packs=sum(r.live for r in rows),
        superseded=sum(r.status == PackStatus.SUPERSEDED for r in rows),
        blocks=sum(r.blocks for r in rows if r.live),
        pack_bytes=file_bytes(layout.pack_files().values()),
        meta_bytes=file_bytes(layout.meta.glob("*")),
        journals=len(waiting),
        journal_bytes=file_bytes(waiting),
        runs=runs,
    )


def file_bytes(files: Iterable[Path]) -> int:
    """Sizes of all files that are still there."""
    total = 0
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            total += path.lstat().st_size
    return total


def modules(meta: Meta) -> list[Module]:
    """One pseudo module per image and fingerprint, the largest first."""
    images = meta.images()
    shares: dict[tuple[str, str, str], list[ModuleShare]] = {}
    for row in meta.packs().values():
        for image_id, share in row.shares.items() if row.live else ():
            shares.setdefault((image_id, row.fingerprint, row.arch), []).append(share)
    modules = [
        Module(
            id=image_id,
            kind="image",
            name=image_id,
            arch=arch,
            fingerprint=fingerprint,
            blocks=sum(s.blocks for s in found),
            dead=0,
            bytes=sum(s.bytes for s in found),
            last_used=iso_time(images[image_id].last_used if image_id in images else 0.0),
            images=1,
        )
        for (image_id, fingerprint, arch), found in shares.items()
    ]
    return sorted(modules, key=lambda m: (-m.blocks, m.id, m.fingerprint))


def iso_time(moment: float) -> str:
    """Unix seconds as ISO 8601, UTC."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
