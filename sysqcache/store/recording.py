# SPDX-License-Identifier: GPL-2.0-or-later
"""A finished run on its way into the store, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sysqcache.base.types import RunInfo
    from sysqcache.formats.journal import Journal
    from sysqcache.formats.places import Places
    from sysqcache.formats.runfiles import RunFiles
    from sysqcache.store.key import Identities


@dataclass(frozen=True)
class IngestResult:
    """What became of a journal.

    :param blocks_new: blocks that were kept.
    :param blocks_known: recorded blocks that the store had already, or twice.
    :param damaged: recorded blocks that were skipped for a bad checksum or bad sizes.
    :param packs: those that were written, none when nothing was new.
    :param warnings: lines for the user; the store repaired itself.
    :param blocks_dead: recorded blocks that were left out, as their code rewrites itself.
    :param crowded: blocks that were left out, recorded ones and those of merged packs, as
        too many share a key of the index.
    :param outdated: blocks of a journal of an earlier format version, which was set aside;
        None for any other.
    """

    blocks_new: int = 0
    blocks_known: int = 0
    damaged: int = 0
    packs: tuple[Path, ...] = ()
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    blocks_dead: int = 0
    crowded: int = 0
    outdated: int | None = None


@dataclass(frozen=True)
class Recording:
    """A journal with what is known about its run.

    :param places: where its blocks belong, as far as anyone found out.
    :param counters: the engine's counts by name, empty when nobody asked in time.
    """

    journal: Journal
    keys: Identities
    image_id: str
    run: RunInfo
    places: Places
    counters: Mapping[str, int]

    @classmethod
    def read(
        cls, files: RunFiles, image_id: str, run: RunInfo, counters: Mapping[str, int] | None = None
    ) -> Recording:
        """Read a journal and what lies beside it, outside of any lock. Raises FormatError."""
        from sysqcache.store import key

        journal = files.read_journal()
        keys = key.identities(journal.blocks)
        return cls(journal, keys, image_id, run, files.read_places(), counters or {})

    @property
    def fingerprint(self) -> str:
        """Hexadecimal."""
        return self.journal.header.fingerprint.hex()
