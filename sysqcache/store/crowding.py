# SPDX-License-Identifier: GPL-2.0-or-later
"""Which blocks have no room in a pack, as too many others share their key of the index.

A lookup compares a few entries of a key and reads a limited stretch of the index, so that
no guest can make the lookups of others slow. What it would not reach is not written.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import BlockTable, Mask
from sysqcache.store import key
from sysqcache.store.columns import Columns
from sysqcache.store.pack import slots_for
from sysqcache.store.writer import place


def crowded(
    tables: Sequence[BlockTable], columns: Sequence[Columns] | None, seed: int
) -> list[Mask]:
    """Which blocks of each table a pack with this seed can't have: shapes as the tables.

    Of those that share a key the ones that were used last stay, of these the ones that were
    used most, of these the first.

    :param columns: of each table's blocks; None: the first stay.
    """
    none = np.zeros(0, np.uint64)
    hashes = np.concatenate([none, *(key.index_hashes(t, seed) for t in tables)])
    out = _beyond_their_chain(hashes, columns)
    while True:
        kept = np.flatnonzero(~out)
        far = _out_of_reach(hashes[kept])
        if not far.any():
            break
        # without them the index has fewer slots: look again
        out[kept[far]] = True
    return np.split(out, np.cumsum([len(t) for t in tables])[:-1])


def without_crowded(
    tables: Sequence[BlockTable], columns: Sequence[Columns], seed: int
) -> tuple[list[BlockTable], Columns, list[int]]:
    """The blocks of each table that a pack can have, the columns of all, how many have no room."""
    left_out = crowded(tables, columns, seed)
    kept = [table.select(~mask) for table, mask in zip(tables, left_out, strict=True)]
    joined = Columns.concatenate(list(columns)).select(~np.concatenate(left_out))
    return kept, joined, [int(mask.sum()) for mask in left_out]


def crowding_words(count: int) -> list[str]:
    """What to tell the user of so many blocks that were left out."""
    if not count:
        return []
    text = f"{count:,} blocks were left out, as {bf.MAX_SAME_KEY} others have the same key"
    return [f"{text} in the index of a pack (crowded)"]


def _beyond_their_chain(hashes: key.U64, columns: Sequence[Columns] | None) -> Mask:
    """Which blocks have ``MAX_SAME_KEY`` others of their key before them, the best first."""
    out = np.zeros(len(hashes), np.bool_)
    _, counts = np.unique(hashes, return_counts=True)
    if not len(counts) or counts.max() <= bf.MAX_SAME_KEY:
        return out
    worth = [np.zeros(len(hashes), np.int64)] * 2
    if columns is not None:
        worth = [
            -np.concatenate([getattr(c, name) for c in columns]).astype(np.int64)
            for name in ("uses", "last")
        ]
    order = np.lexsort((*worth, hashes))
    ranks = np.arange(len(hashes)) - np.repeat(np.cumsum(counts) - counts, counts)
    out[order[ranks >= bf.MAX_SAME_KEY]] = True
    return out


def _out_of_reach(hashes: key.U64) -> Mask:
    """Which blocks would lie farther from their home slot than a lookup goes."""
    order = np.argsort(hashes, kind="stable")
    homes = key.home_slots(hashes[order], slots_for(len(hashes)))
    far = np.zeros(len(hashes), np.bool_)
    far[order] = place(homes) - homes >= bf.MAX_WALK
    return far
