# SPDX-License-Identifier: GPL-2.0-or-later
"""Opens the metadata for writing, repaired when they must be."""

from __future__ import annotations

import contextlib

from sysqcache.base.errors import FormatError, StoreError
from sysqcache.store.layout import Layout
from sysqcache.store.manifest import read_manifest
from sysqcache.store.meta import Meta, MetaDamaged
from sysqcache.store.rebuild import rebuild


def open_meta(layout: Layout, warnings: list[str]) -> Meta:
    """Open the metadata for writing, rebuilt first when damaged or behind the packs.

    Under the store's lock. Raises StoreBusy or StoreError, never MetaDamaged.
    """
    try:
        meta = Meta(layout.meta)
        if not _behind(layout, meta):
            return meta
        meta.close()
        why = "they are older than the packs"
    except MetaDamaged as error:
        why = str(error)
    warnings.append(f"the store's metadata were rebuilt from its packs: {why}")
    rebuild(layout)
    try:
        return Meta(layout.meta)
    except MetaDamaged as error:
        raise StoreError(f"the metadata in {layout.meta} can't be rebuilt: {error}") from error


def _behind(layout: Layout, meta: Meta) -> bool:
    """Whether a commit is missing: packs without metadata, or boot sets of a later commit."""
    generation = meta.counters.generation
    if generation == 0 and layout.pack_files():
        return True
    with contextlib.suppress(FormatError):
        return read_manifest(layout).generation > generation
    return False
