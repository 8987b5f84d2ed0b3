# SPDX-License-Identifier: GPL-2.0-or-later
"""From a journal and looks into its guest to places: all that needs no living guest."""

from __future__ import annotations

from collections.abc import Iterable

from sysqcache.attribution.address import place_by_address
from sysqcache.attribution.blocks import Blocks
from sysqcache.attribution.board import Board
from sysqcache.attribution.classify import classify
from sysqcache.attribution.observation import Observation
from sysqcache.attribution.truths import Truths
from sysqcache.journal import Journal
from sysqcache.placement import Placements


def attribute(
    journal: Journal, observations: Iterable[Observation], truths: Truths | None = None
) -> Placements:
    """Find the module and the offset of each block of a run.

    :param observations: looks into the guest in the order of time; what any of them
        confirmed stays. Without one all blocks remain unknown.
    :param truths: bytes of modules from images, if there are any.
    """
    looks = tuple(observations)
    board = Board(Blocks.of(journal))
    for seen in looks:
        place_by_address(board, seen)
    classify(board, looks)
    return board.placements()
