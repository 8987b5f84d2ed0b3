# SPDX-License-Identifier: GPL-2.0-or-later
"""A journal becomes a pack: new blocks are written, metadata committed, journal removed.

The order is: pack file (written, synced, renamed, directory synced), one commit of
metadata, boot sets, removal of the journal. A kill between two steps leaves a store
in which every published file is whole; docs/formats.md says what remains after each.
"""

from __future__ import annotations

from collections.abc import Callable

from sysqcache.store.change import Change
from sysqcache.store.layout import StoreLayout
from sysqcache.store.manifest import publish
from sysqcache.store.meta import Meta
from sysqcache.store.recording import IngestResult, Recording
from sysqcache.store.writer import nothing


def ingest_recording(
    layout: StoreLayout,
    meta: Meta,
    recording: Recording,
    *,
    reached: Callable[[str], None] = nothing,
) -> IngestResult:
    """Keep what is new of a recording; under the store's lock.

    Raises MetaDamaged (rebuild, then call again) or StoreError or OSError; then the
    store is as before, but for a pack file that nothing refers to yet.
    """
    done = meta.run_of(recording.journal.header.identity)
    if done is not None:
        publish(layout, meta)
        packs = tuple(layout.pack(name) for name in done.packs)
        return IngestResult(done.blocks_new, done.blocks_known, done.damaged, packs, 0.0)
    change = Change(layout, meta, recording, reached)
    result = change.apply()
    reached("committed")
    publish(layout, meta)
    reached("boot-sets-written")
    return result
