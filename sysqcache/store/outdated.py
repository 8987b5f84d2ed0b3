# SPDX-License-Identifier: GPL-2.0-or-later
"""Packs and journals of earlier format versions: no engine reads them, so they go.

A pack's row takes it out of all boot sets, an ingest frees its metadata, and ``compact``
removes the file. A journal is set aside, and ``compact`` removes it there.
"""

from __future__ import annotations

import dataclasses

from sysqcache.formats import block as bf
from sysqcache.formats.journal import outdated_blocks
from sysqcache.formats.runfiles import RunFiles
from sysqcache.store.batch import Batch
from sysqcache.store.layout import StoreLayout, move_aside
from sysqcache.store.meta import Meta
from sysqcache.store.records import PackStatus


def retire(meta: Meta, batch: Batch) -> list[str]:
    """Give up the metadata of outdated packs, once; a line for the user if there are any."""
    rows = [r for r in meta.packs().values() if r.outdated and r.status != PackStatus.OUTDATED]
    for row in rows:
        batch.drop_columns(row)
        batch.put(dataclasses.replace(row, status=PackStatus.OUTDATED))
    if not rows:
        return []
    blocks = sum(row.blocks for row in rows)
    text = f"{blocks:,} blocks in {len(rows)} packs of before format version {bf.VERSION}"
    return [f"{text} are not used any more: `sysqcache cache compact` removes them"]


def set_aside(layout: StoreLayout, files: RunFiles) -> tuple[int, str] | None:
    """Move an outdated journal away; how many blocks it held, and a line for the user.

    The one before is removed: an engine of before writes such a journal in each run. None,
    and nothing is touched, for any other file. Raises StoreError or OSError.
    """
    blocks = outdated_blocks(files.path)
    if blocks is None:
        return None
    remove_journals(layout)
    moved = move_aside(layout, files.path, layout.outdated)
    files.remove_beside()
    return blocks, (
        f"{blocks:,} recorded blocks are not kept: the engine that wrote them is of before format "
        f"version {bf.VERSION}. Start, save or enable the machine anew with this version's engine; "
        f"the journal is now {moved}"
    )


def remove_journals(layout: StoreLayout) -> int:
    """Remove the journals that were set aside; how many bytes they had. Raises OSError."""
    freed = 0
    for path in layout.outdated_journals():
        freed += path.lstat().st_size
        path.unlink(missing_ok=True)
    return freed
