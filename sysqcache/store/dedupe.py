# SPDX-License-Identifier: GPL-2.0-or-later
"""Which recorded blocks are new: by identity, against kept blocks and among themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sysqcache.blocktable import Mask, Offsets
from sysqcache.store.key import IDENTITY


@dataclass(frozen=True)
class Split:
    """How n recorded blocks relate to k kept ones.

    :param fresh: shape (n,): the first of its identity, and not kept yet.
    :param again: rows of kept blocks that were recorded again, ascending, none twice.
    :param known: recorded blocks that are kept already.
    """

    fresh: Mask
    again: Offsets
    known: int


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
    is_known = of_recorded < count
    return Split(
        fresh=of_recorded == np.arange(count, len(keys)),
        again=np.unique(of_recorded[is_known]),
        known=int(np.count_nonzero(is_known)),
    )
