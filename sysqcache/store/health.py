# SPDX-License-Identifier: GPL-2.0-or-later
"""What of a store is not as it should be, seen without reading its packs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sysqcache.base.errors import FormatError
from sysqcache.formats.block import left_out_state
from sysqcache.store import journals
from sysqcache.store.layout import StoreLayout
from sysqcache.store.manifest import read_manifest
from sysqcache.store.records import PackRow
from sysqcache.store.summary import left_out


def degraded(layout: StoreLayout, rows: Sequence[PackRow]) -> list[tuple[str, str]]:
    """Each state that costs something, with its remedy. Raises OSError.

    :param rows: all packs that the metadata know.
    """
    return [*_packs(layout, rows), *_set_aside(layout), *_waiting(layout)]


def _packs(layout: StoreLayout, rows: Sequence[PackRow]) -> Iterator[tuple[str, str]]:
    rebuild = "sysqcache cache rebuild"
    files = layout.pack_files()
    if files:
        try:
            read_manifest(layout)
        except FormatError as error:
            yield f"no pack is used: {error.message}", rebuild
    gone = sum(row.live and row.sha256 not in files for row in rows)
    if gone:
        yield f"{gone} packs are missing: their blocks are translated again", rebuild
    unknown = len(files.keys() - {row.sha256 for row in rows})
    if unknown:
        yield f"{unknown} packs are not in the metadata, so that no start maps them", rebuild
    beyond = left_out(layout)
    if beyond:
        yield left_out_state(beyond)
    old = sum(row.outdated for row in rows)
    if old:
        yield f"{old} packs of an earlier version are of no use", "sysqcache cache compact"


def _set_aside(layout: StoreLayout) -> Iterator[tuple[str, str]]:
    count = len(list(layout.damaged.glob("*")))
    if count:
        what = f"{count} damaged files were set aside in {layout.damaged}"
        yield what, "look whether the disk fails, then remove that folder"
    count = len(layout.outdated_journals())
    if count:
        what = f"{count} journals of an earlier version are of no use"
        yield what, "sysqcache cache compact"


def _waiting(layout: StoreLayout) -> Iterator[tuple[str, str]]:
    count = len(journals.leftovers(layout))
    if count:
        yield f"the blocks of {count} ended runs are not kept yet", "sysqcache list keeps them"
