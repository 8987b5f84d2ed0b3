# SPDX-License-Identifier: GPL-2.0-or-later
"""The live packs of one fingerprint, mapped and checked, with their block columns."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from sysqcache.base.errors import FormatError
from sysqcache.formats.blocktable import BlockTable
from sysqcache.store.columns import Columns
from sysqcache.store.layout import StoreLayout
from sysqcache.store.meta import Meta
from sysqcache.store.pack import Pack
from sysqcache.store.records import PackRow, PackStatus


@dataclass(frozen=True)
class LivePack:
    """A pack and its metadata. ``columns`` has a row for each block of ``pack``."""

    row: PackRow
    pack: Pack
    columns: Columns

    def intact(self) -> tuple[BlockTable, Columns]:
        """Every block whose bytes are as written, with its metadata.

        Raises FormatError ("bounds") when file and metadata do not fit together.
        """
        table = self.pack.blocks()
        if not np.array_equal(table.offsets, self.columns.offsets()):
            raise FormatError(f"{self.pack.name}: the index is damaged", reason="bounds")
        good = table.good_checksums()
        return table.select(good), self.columns.select(good)


def load_live(
    layout: StoreLayout, meta: Meta, fingerprint: str
) -> tuple[list[LivePack], list[PackRow]]:
    """Live packs of a fingerprint, oldest first, and rows of those that are lost.

    The lost rows carry their new status; the caller commits them. Opening a pack
    does not read its blocks.
    """
    rows = [p for p in meta.packs().values() if p.live and p.fingerprint == fingerprint]
    rows.sort(key=lambda p: (p.created, p.sha256))
    found, lost = [], []
    for row in rows:
        path = layout.pack(row.sha256)
        try:
            pack = Pack.open(path)
            _require_same(pack, row)
        except FormatError:
            status = PackStatus.DAMAGED if path.exists() else PackStatus.MISSING
            lost.append(dataclasses.replace(row, status=status))
            continue
        found.append(LivePack(row, pack, meta.columns(row)))
    return found, lost


def _require_same(pack: Pack, row: PackRow) -> None:
    head = pack.header
    if head.block_count != row.blocks or head.fingerprint.hex() != row.fingerprint:
        raise FormatError(f"{pack.name} is not the pack of its name", reason="fingerprint")
