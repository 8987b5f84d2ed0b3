# SPDX-License-Identifier: GPL-2.0-or-later
"""Which kept blocks a run adopted: what its journal says, as rows of the live packs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import Offsets
from sysqcache.formats.journal import Journal
from sysqcache.store.live import LivePack


def adopted_rows(live: Sequence[LivePack], journal: Journal) -> Offsets:
    """Rows of adopted blocks, counted through all packs in order, ascending, none twice.

    Packs that were replaced while the machine ran are not counted; neither is what does
    not lie where a block begins, as a journal is not to be trusted.
    """
    parts, before = [np.zeros(0, np.int64)], 0
    numbers = {name: number for number, name in journal.packs.items()}
    for pack in live:
        number = numbers.get(pack.row.sha256)
        if number is not None:
            of_pack = journal.adopted[journal.adopted["pack"] == number]
            parts.append(before + _rows(pack, of_pack["position"].astype(np.int64)))
        before += len(pack.columns)
    return np.unique(np.concatenate(parts))


def _rows(pack: LivePack, position: Offsets) -> Offsets:
    starts = pack.columns.offsets() // bf.ALIGN
    if not len(starts):
        return np.zeros(0, np.int64)
    row = np.minimum(np.searchsorted(starts, position), len(starts) - 1)
    rows: Offsets = row[starts[row] == position]
    return rows
