# SPDX-License-Identifier: GPL-2.0-or-later
"""After each commit: the boot sets follow the metadata."""

from __future__ import annotations

from sysqcache.base.errors import FormatError
from sysqcache.store.layout import Layout
from sysqcache.store.manifest import Manifest, read_manifest, write_manifest
from sysqcache.store.meta import Meta


def publish(layout: Layout, meta: Meta) -> Manifest:
    """Write the boot sets of the last commit, unless they are there. Raises OSError."""
    try:
        current = read_manifest(layout)
    except FormatError:
        current = Manifest()
    if current.generation == meta.counters.generation:
        return current
    manifest = Manifest.of(
        meta.counters.generation,
        meta.packs().values(),
        meta.fingerprints().values(),
        meta.images().values(),
        meta.modules().values(),
    )
    write_manifest(layout, manifest)
    return manifest
