# SPDX-License-Identifier: GPL-2.0-or-later
"""What the store holds, as numbers for `cache list`."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.base.errors import FormatError
from sysqcache.store.layout import StoreLayout
from sysqcache.store.manifest import read_manifest
from sysqcache.store.meta import Meta
from sysqcache.store.records import ModuleLine, ModuleRow, ModuleShare, PackRow, PackStatus


@dataclass(frozen=True)
class StoreStats:
    """Sizes of the store; bytes are those of files on disk.

    :param left_out: packs beyond what an engine maps, in the start that lacks most.
    :param outdated: packs of earlier format versions, ``outdated_journals`` what was set
        aside of them; no engine reads either.
    """

    packs: int
    superseded: int
    blocks: int
    pack_bytes: int
    meta_bytes: int
    journals: int
    journal_bytes: int
    runs: int
    left_out: int = 0
    outdated: int = 0
    outdated_journals: int = 0

    @property
    def bytes(self) -> int:
        """Packs and metadata together."""
        return self.pack_bytes + self.meta_bytes


def stats(layout: StoreLayout, rows: list[PackRow], runs: int) -> StoreStats:
    """Count and measure. Raises OSError."""
    waiting = list(layout.journals.glob(f"*{paths.JOURNAL_SUFFIX}"))
    return StoreStats(
        packs=sum(r.live for r in rows),
        superseded=sum(r.status == PackStatus.SUPERSEDED and not r.outdated for r in rows),
        blocks=sum(r.blocks for r in rows if r.live),
        pack_bytes=file_bytes(layout.pack_files().values()),
        meta_bytes=file_bytes(layout.meta.glob("*")),
        journals=len(waiting),
        journal_bytes=file_bytes(waiting),
        runs=runs,
        left_out=left_out(layout),
        outdated=sum(r.outdated for r in rows),
        outdated_journals=len(layout.outdated_journals()),
    )


def left_out(layout: StoreLayout) -> int:
    """:attr:`Manifest.left_out`; nothing can be said, nor is mapped, without boot sets."""
    try:
        return read_manifest(layout).left_out
    except FormatError:
        return 0


def file_bytes(files: Iterable[Path]) -> int:
    """Sizes of all files that are still there."""
    total = 0
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            total += path.lstat().st_size
    return total


NOBODY: Final = ModuleRow(0, "unknown", "unknown", "unknown", "", 0.0, 0.0)
"""Stands for the module of blocks whose metadata are lost, or older than modules."""


def modules(meta: Meta) -> list[ModuleLine]:
    """One line for each module and fingerprint, the largest first."""
    lines = [line for found in lines_of(meta).values() for line in found]
    return sorted(lines, key=lambda m: (-m.blocks, m.kind, m.id, m.fingerprint))


def lines_of(meta: Meta) -> dict[int, list[ModuleLine]]:
    """The lines of each module that has blocks, one a fingerprint, by the module's number."""
    rows = {0: NOBODY} | meta.modules()
    dead = Counter(area.module for area in meta.dead())
    found: dict[int, list[ModuleLine]] = {}
    for (number, fingerprint, arch), shares in _shares(meta.packs().values()).items():
        row = rows.get(number, NOBODY)
        line = ModuleLine(
            id=row.id,
            kind=row.kind,
            name=row.name,
            arch=arch,
            fingerprint=fingerprint,
            blocks=sum(s.blocks for s in shares),
            dead=dead[number] + row.dead_unplaced,
            bytes=sum(s.bytes for s in shares),
            last_used=iso_time(row.last_used),
            images=len(row.images),
        )
        found.setdefault(row.number, []).append(line)
    return found


def _shares(packs: Iterable[PackRow]) -> dict[tuple[int, str, str], list[ModuleShare]]:
    """What live packs hold of each module, by its number, fingerprint and architecture."""
    shares: dict[tuple[int, str, str], list[ModuleShare]] = {}
    for pack in packs:
        of_pack = pack.shares or {0: ModuleShare(pack.blocks, pack.bytes)}
        for number, share in of_pack.items() if pack.live else ():
            shares.setdefault((number, pack.fingerprint, pack.arch), []).append(share)
    return shares


def iso_time(moment: float) -> str:
    """Unix seconds as ISO 8601, UTC."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
