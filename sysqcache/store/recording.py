# SPDX-License-Identifier: GPL-2.0-or-later
"""A finished run on its way into the store, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sysqcache.journal import Journal, read_journal
from sysqcache.store import key
from sysqcache.types import RunInfo


@dataclass(frozen=True)
class IngestResult:
    """What became of a journal.

    :param blocks_new: blocks that were kept.
    :param blocks_known: recorded blocks that the store had already, or twice.
    :param damaged: recorded blocks that were skipped for a bad checksum or bad sizes.
    :param pack: the pack that was written, None when nothing was new.
    :param warnings: lines for the user; the store repaired itself.
    """

    blocks_new: int
    blocks_known: int
    damaged: int
    pack: Path | None
    seconds: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recording:
    """A journal with what is known about its run."""

    journal: Journal
    keys: key.Identities
    image_id: str
    run: RunInfo

    @classmethod
    def read(cls, path: Path, image_id: str, run: RunInfo) -> Recording:
        """Read a journal, outside of any lock. Raises FormatError."""
        journal = read_journal(path)
        return cls(journal, key.identities(journal.blocks), image_id, run)

    @property
    def fingerprint(self) -> str:
        """Hexadecimal."""
        return self.journal.header.fingerprint.hex()
