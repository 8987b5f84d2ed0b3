# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of every miss, reject and refusal, the same as in the engine's QAPI schema.

The order is part of the contract: a name is never renumbered and never reused.
``tests/unit/test_counters.py`` compares these tuples with ``engine/src/qapi/tb-cache.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MISSES: Final[tuple[str, ...]] = (
    "absent",  # no pack holds a block with this key
    "bytes",  # a block has the key, but other guest bytes
    "no-pack",  # nothing is mapped
    "rejected",  # a block fitted but failed a check, see REJECTS
    "io",  # code outside RAM: a one-shot block
    "count",  # a block with an instruction limit (I/O recompile, precise SMC)
    "single-step",
    "breakpoint",
    "icount",
    "plugin",
    "logging",  # -d in_asm, op, out_asm want to see the translation
    "not-pcrel",  # the target translated for one virtual address
    "page2",  # the second page is not RAM, or moved while it was locked
    "buffer-full",  # no room left in the code buffer
    "disabled",  # the engine can't key this machine
    "dead",  # the code in this place keeps rewriting itself
    "parallel",  # kept, but for machines with one vCPU where this may have several, or for those
    "crowded",  # more blocks than are looked at have the key
)
"""Why a requested block was translated instead of adopted."""

REJECTS: Final[tuple[str, ...]] = (
    "checksum",  # the block's checksum is wrong
    "bounds",  # a size or offset points outside the file or the block
    "magic",
    "version",
    "fingerprint",
    "truncated",
    "header-checksum",
    "owner",  # the file belongs to another user
    "writable",  # the file could have been written by others
    "unreadable",
    "page-bits",
    "limit",  # as many packs are mapped as there is room for
)
"""Why a pack, or a block of it, was refused."""

DAMAGE: Final[frozenset[str]] = frozenset(
    {"checksum", "bounds", "magic", "truncated", "header-checksum"}
)
"""The rejects that only a damaged file explains."""


def saw_damage(rejected: Mapping[str, int]) -> bool:
    """Whether a run's rejects, counted by reason, tell of a damaged file."""
    return any(rejected.get(reason) for reason in DAMAGE)


UNRECORDED: Final[tuple[str, ...]] = (
    "uncacheable",  # refused before translation, see MISSES
    "helper",  # calls something that is not in the helper table
    "bytes-unknown",  # the translator did not read every byte it covers
    "too-large",
    "journal-full",  # journal-max reached
    "write-error",  # the disk is full, or the journal became unwritable
    "no-memory",
    "frozen",
    "known",  # the same block has been recorded in this run
)
"""Why a translated block was not written to the journal."""

WRITES: Final[tuple[str, ...]] = (
    "store",  # blocks invalidated by a store of the guest's code
    "device",  # blocks in RAM invalidated by DMA, a loader or a debugger
    "rom",  # blocks invalidated in ROM or a ROM device
    "returned",  # the same code was found there again
    "changed",  # other code was found there
)
"""Blocks that writes invalidated, by who wrote, and what was found there later."""
