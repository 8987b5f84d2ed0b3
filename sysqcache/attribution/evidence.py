# SPDX-License-Identifier: GPL-2.0-or-later
"""How much equal bytes prove.

A page may have had another owner when a block was recorded. Long equal code says that
it had not; a lone `ret` says nothing, as one stands in the same place of every hundredth page.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from sysqcache.attribution.blocks import I64, U64, Mask

ALONE: Final = 8
"""Equal bytes that need no other witness."""

TOGETHER: Final = 16
"""Equal bytes of all blocks of a group that speak for each of them, where an address has
named the owner."""

FOUND: Final = 64
"""The same where nothing but content has: programs begin with like code at like places."""


def witnesses(group: I64, place: U64, size: I64) -> I64:
    """Distinct bytes of all blocks of each block's group.

    :param group: shape (k,), any numbers.
    :param place: shape (k,): the same code at the same place counts once.
    :param size: shape (k,), bytes.
    :returns: shape (k,).
    """
    if not len(group):
        return np.zeros(0, np.int64)
    order = np.lexsort((size, place, group))
    ordered, places = group[order], place[order]
    # of blocks that begin at one place the longest, which is the last, counts
    last = np.ones(len(order), bool)
    last[:-1] = (ordered[1:] != ordered[:-1]) | (places[1:] != places[:-1])
    new = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    number = np.cumsum(new) - 1
    total = np.bincount(number, weights=np.where(last, size[order], 0))
    result = np.empty(len(order), np.int64)
    result[order] = total[number]
    return result


def grouped(*columns: Any) -> I64:
    """One number for each distinct combination of columns, shape (k,)."""
    result: I64 = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        _, number = np.unique(column, return_inverse=True)
        result = result * (int(number.max(initial=0)) + 1) + number
        _, result = np.unique(result, return_inverse=True)
    return result


def after_last(page: U64, refuted: Mask) -> Mask:
    """Which blocks were recorded after the last refuted one of their page.

    :param page: shape (k,), in the order of recording.
    :param refuted: shape (k,): blocks whose bytes are not what the page holds now, so that
        the page became what it is after them.
    """
    _, number = np.unique(page, return_inverse=True)
    last = np.full(int(number.max(initial=-1)) + 1, -1, np.int64)
    rows = np.flatnonzero(refuted)
    np.maximum.at(last, number[rows], rows)
    result: Mask = np.arange(len(page)) > last[number]
    return result


def before(page: U64, place: U64, size: I64) -> I64:
    """Distinct bytes that a page's blocks up to each block had together.

    :param page: shape (k,), in the order of recording; ``place`` and ``size`` as well.
    """
    first = np.zeros(len(page), bool)
    _, rows = np.unique(grouped(page, place), return_index=True)
    first[rows] = True
    order = np.argsort(page, kind="stable")
    running = np.cumsum(np.where(first, size, 0)[order])
    new = np.concatenate(([True], page[order][1:] != page[order][:-1]))[: len(order)]
    starts = np.flatnonzero(new)
    base = (running - np.where(first, size, 0)[order])[starts]
    lengths = np.diff(np.append(starts, len(order)))
    result = np.empty(len(page), np.int64)
    result[order] = running - np.repeat(base, lengths)
    return result


def runs(equal: Mask, page: U64, place: U64, size: I64, least: int) -> Mask:
    """Which equal blocks stand in a run of equal ones that together prove something.

    A block that is not equal ends a run: there the memory became something else. Short
    blocks of a page on which nothing else is proven do not count: at the ends of a run
    they may be something else's.

    :param equal: shape (k,), all blocks of a range of addresses in the order of recording.
    :param page: shape (k,), the guest's pages.
    :param place: shape (k,): the same code at the same place counts once a run.
    :param least: bytes that prove a run.
    """
    breaks = np.ones(len(equal), bool)
    breaks[1:] = ~equal[1:] | ~equal[:-1]
    total = witnesses(np.cumsum(breaks), place, np.where(equal, size, 0))
    good = equal & (total >= least)
    witness = witnesses(grouped(page), place, np.where(good, size, 0)) >= TOGETHER
    result: Mask = good & ((size >= ALONE) | witness)
    return result
