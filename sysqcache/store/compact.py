# SPDX-License-Identifier: GPL-2.0-or-later
"""The one command that deletes packs: superseded ones, and the least recently used."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from sysqcache.base.errors import FormatError
from sysqcache.base.files import locked
from sysqcache.store.batch import Batch
from sysqcache.store.layout import StoreLayout
from sysqcache.store.live import is_damage
from sysqcache.store.manifest import publish
from sysqcache.store.meta import Meta
from sysqcache.store.outdated import remove_journals
from sysqcache.store.pack import read_header
from sysqcache.store.pins import pinned
from sysqcache.store.records import PackRow, PackStatus


@dataclass(frozen=True)
class CompactReport:
    """What a compaction removed: packs, and bytes of all files.

    :param in_use: a machine maps packs, so nothing was removed.
    :param bytes_left: of all pack files that remain.
    """

    removed: int = 0
    bytes_freed: int = 0
    bytes_left: int = 0
    in_use: bool = False


def compact(layout: StoreLayout, meta: Meta, max_bytes: int | None = None) -> CompactReport:
    """Remove superseded, outdated, unlisted and, above ``max_bytes``, the least used packs.

    Under the store's lock. Metadata are committed first, so that a kill leaves
    files that nobody refers to, which the next run removes. Damaged files stay for
    ``rebuild``, and what saved machines rely on stays for them, unless no engine would
    read it. Journals that were set aside go too. Raises MetaDamaged, StoreError or OSError.
    """
    # nobody can start to map packs meanwhile
    with locked(layout.in_use) as alone:
        if alone is None:
            return CompactReport(bytes_left=_bytes(layout), in_use=True)
        before = _bytes(layout)
        gone, files = _superfluous(layout, meta, max_bytes)
        if gone:
            _forget(layout, meta, gone)
        for path in files:
            path.unlink()
        left = _bytes(layout)
        freed = before - left + remove_journals(layout)
    meta.shrink()
    return CompactReport(len(files), freed, left)


def make_room(layout: StoreLayout, max_bytes: int | None = None) -> CompactReport:
    """Remove the files that :func:`compact` would remove, for the metadata of a full disk.

    Under the store's lock. They can't be committed there, nor opened for writing. A kill leaves
    rows of packs that are gone, which the next compaction removes. Raises as :func:`compact`.
    """
    with locked(layout.in_use) as alone:
        if alone is None:
            return CompactReport(bytes_left=_bytes(layout), in_use=True)
        with Meta(layout.meta, read_only=True) as meta:
            _, files = _superfluous(layout, meta, max_bytes)
        before = _bytes(layout)
        for path in files:
            path.unlink()
        left = _bytes(layout)
        return CompactReport(len(files), before - left + remove_journals(layout), left)


def _superfluous(
    layout: StoreLayout, meta: Meta, max_bytes: int | None
) -> tuple[list[PackRow], list[Path]]:
    """The rows of packs that nobody needs, and files: theirs and those that nobody knows."""
    files, rows, kept = layout.pack_files(), meta.packs(), pinned(layout)
    free_rows = [r for r in rows.values() if r.outdated or r.sha256 not in kept]
    gone = [r for r in free_rows if _useless(r)]
    bytes_kept = sum(r.bytes for r in rows.values() if r.live and r.sha256 in kept)
    room = None if max_bytes is None else max(0, max_bytes - bytes_kept)
    gone += _least_used([r for r in free_rows if r.live], room)
    names = {r.sha256 for r in gone}
    names |= {name for name in files.keys() - rows.keys() if _looked_at(files[name])}
    return gone, [files[name] for name in names if name in files]


def _useless(row: PackRow) -> bool:
    """Whether nobody will map the pack again, nor mend it."""
    return row.outdated or (not row.live and row.status != PackStatus.DAMAGED)


def _looked_at(path: Path) -> bool:
    """Whether a file's content is known; one that can't be opened now may be needed later."""
    try:
        read_header(path)
    except (FormatError, OSError) as error:
        return is_damage(error)
    return True


def _bytes(layout: StoreLayout) -> int:
    return sum(path.lstat().st_size for path in layout.pack_files().values())


def _least_used(live: list[PackRow], max_bytes: int | None) -> list[PackRow]:
    """Live packs to remove so that the others fit, the least recently used first."""
    gone: list[PackRow] = []
    if max_bytes is None:
        return gone
    total = sum(row.bytes for row in live)
    for row in sorted(live, key=lambda r: (r.last_used, r.created)):
        if total <= max_bytes:
            break
        gone.append(row)
        total -= row.bytes
    return gone


def _forget(layout: StoreLayout, meta: Meta, rows: list[PackRow]) -> None:
    batch = Batch()
    for row in rows:
        batch.drop_pack(row)
    counters = meta.counters
    meta.commit(batch, dataclasses.replace(counters, generation=counters.generation + 1))
    publish(layout, meta)
