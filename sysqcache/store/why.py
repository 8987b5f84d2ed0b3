# SPDX-License-Identifier: GPL-2.0-or-later
"""Why the blocks that a run had to translate were not found in the packs."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sysqcache.formats.blocktable import Mask
from sysqcache.store.columns import Columns, StorePlaces

U64 = NDArray[np.uint64]


class Why(enum.StrEnum):
    """Reasons, the surest first."""

    DEAD = "dead"
    """The code rewrites itself there."""
    UNMAPPED = "unmapped"
    """It is kept, in a pack that this run did not map."""
    REFUSED = "refused"
    """It is kept in a pack that was mapped: recorded before the pack came, or refused."""
    FINGERPRINT = "fingerprint"
    """It is kept for another engine, CPU model or set of options alone."""
    BYTES = "bytes"
    """The module has other code at this place."""
    FLAGS = "flags"
    """The same place is kept for another state of the CPU."""
    ABSENT = "absent"
    """Nothing is kept of this place."""


REASONS = tuple(Why)


def reasons(
    known: Mask,
    mapped: Mask,
    dead: Mask,
    elsewhere: Mask,
    places: StorePlaces,
    flags: NDArray[np.uint32],
    live: Sequence[Columns],
) -> NDArray[np.uint8]:
    """The reason of each of n recorded blocks, as a place in ``REASONS``, shape (n,).

    :param known: kept before this run; ``mapped``: in a pack that it had mapped.
    :param dead: begins in a dead place; ``elsewhere``: kept for another fingerprint.
    :param flags: of the recorded blocks; ``live`` are the columns of the kept ones.
    """
    kept = [StorePlaces(c.module, c.offset) for c in live]
    here = _spots(places)
    same_place = _among(here, map(_spots, kept)) & (here != 0)
    with_flags = (_mixed(_spots(p), c.flags) for p, c in zip(kept, live, strict=True))
    same_flags = same_place & _among(_mixed(here, flags), with_flags)
    chosen = [dead, known & ~mapped, known, elsewhere, same_flags, same_place]
    order = (Why.DEAD, Why.UNMAPPED, Why.REFUSED, Why.FINGERPRINT, Why.BYTES, Why.FLAGS)
    numbers = [REASONS.index(why) for why in order]
    found: NDArray[np.uint8] = np.select(chosen, numbers, REASONS.index(Why.ABSENT)).astype(
        np.uint8
    )
    return found


def _among(asked: U64, kept: Iterable[U64]) -> Mask:
    """Which of a few numbers are in any of many arrays; numpy.isin would sort or hash those."""
    few, place = np.unique(asked, return_inverse=True)
    found = np.zeros(len(few), np.bool_)
    if not len(few):
        return found
    for numbers in kept:
        at = np.minimum(np.searchsorted(few, numbers), len(few) - 1)
        found[at[few[at] == numbers]] = True
    return found[place]


def _spots(places: StorePlaces) -> U64:
    """Module and offset as one number; 0 where there is no place."""
    spots = places.module.astype(np.uint64) << np.uint64(32) | places.offset.astype(np.uint64)
    placed = (places.offset != 0) & (places.module != 0)
    return np.where(placed, spots, np.uint64(0))


def _mixed(spots: U64, flags: NDArray[np.uint32]) -> U64:
    mixed: U64 = (spots ^ flags.astype(np.uint64) << np.uint64(17)) * np.uint64(0x9E3779B97F4A7C15)
    return mixed


def count(module: NDArray[np.uint32], reason: NDArray[np.uint8]) -> Mapping[int, dict[str, int]]:
    """Blocks by reason, by module number."""
    pairs, numbers = np.unique(
        np.stack([module.astype(np.int64), reason.astype(np.int64)]), axis=1, return_counts=True
    )
    found: dict[int, dict[str, int]] = {}
    for one, why, blocks in zip(*pairs.tolist(), numbers.tolist(), strict=True):
        found.setdefault(one, {})[str(REASONS[why])] = blocks
    return found
