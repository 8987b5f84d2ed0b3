# SPDX-License-Identifier: GPL-2.0-or-later
"""Which recorded blocks are new: by identity, against kept blocks and among themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sysqcache.formats.blocktable import Mask, Offsets
from sysqcache.store.key import IDENTITY


@dataclass(frozen=True)
class Split:
    """How n recorded blocks relate to k kept ones.

    :param fresh: shape (n,): the first of its identity, and not kept yet.
    :param kept: shape (n,): the row of the kept block with this identity, else -1.
    """

    fresh: Mask
    kept: Offsets

    @property
    def again(self) -> Offsets:
        """Rows of kept blocks that were recorded again, ascending, none twice."""
        rows: Offsets = np.unique(self.kept[self.kept >= 0])
        return rows

    @property
    def known(self) -> int:
        """Recorded blocks that are kept already."""
        return int(np.count_nonzero(self.kept >= 0))


def split(kept: list[NDArray[np.void]], recorded: NDArray[np.void]) -> Split:
    """Compare identities; O((n + k) log (n + k)), no Python loop."""
    keys = np.concatenate([np.zeros(0, IDENTITY), *kept, recorded])
    count = len(keys) - len(recorded)
    # lexsort is stable: the first of a group of equal keys is the oldest
    order = np.lexsort((keys["high"], keys["low"]))
    low, high = keys["low"][order], keys["high"][order]
    first = np.ones(len(keys), np.bool_)
    first[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    groups = np.cumsum(first) - 1
    oldest = np.empty(len(keys), np.int64)
    oldest[order] = order[first][groups]
    of_recorded = oldest[count:]
    return Split(
        fresh=of_recorded == np.arange(count, len(keys)),
        kept=np.where(of_recorded < count, of_recorded, -1),
    )
