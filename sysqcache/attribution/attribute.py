# SPDX-License-Identifier: GPL-2.0-or-later
"""From a journal and looks into its guest to places: all that needs no living guest."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from sysqcache.attribution.address import place_by_address
from sysqcache.attribution.blobs import place_in_blob
from sysqcache.attribution.blocks import RecordedBlocks
from sysqcache.attribution.board import Board
from sysqcache.attribution.classify import classify
from sysqcache.attribution.content import place_by_content
from sysqcache.attribution.kerneltext import place_in_kernel
from sysqcache.attribution.observation import Observation
from sysqcache.attribution.parts import place_in_parts
from sysqcache.attribution.truths import Truths
from sysqcache.formats.journal import Journal
from sysqcache.formats.places import Places

SECONDS: Final = 5.0
"""Processor time in which content is searched for; a Debian boot takes a tenth of it."""


def attribute(
    journal: Journal,
    observations: Iterable[Observation],
    truths: Truths | None = None,
    *,
    seconds: float = SECONDS,
) -> Places:
    """Find the module and the offset of each block of a run.

    :param observations: looks into the guest in the order of time; what any of them
        confirmed stays. Without one all blocks remain unknown.
    :param truths: bytes of modules from images, if there are any.
    """
    looks, truths = tuple(observations), truths or Truths()
    deadline = time.thread_time() + seconds
    board = Board(RecordedBlocks.of(journal))
    for seen in looks:
        place_by_address(board, seen)
        for text in truths.kernels:
            place_in_kernel(board, seen, text, deadline)
    for blob in truths.blobs:
        place = place_in_parts if blob.in_parts else place_in_blob
        place(board, blob, deadline)
    for pages in truths.files:
        place_by_content(board, pages, deadline)
    stubs = [board.first(blob.module) for blob in truths.blobs if blob.is_stub]
    count = len(board.blocks)
    handover = min((row for row in stubs if row < count), default=0)
    classify(board, looks, count if truths.firmware_alone else handover)
    return board.places()
