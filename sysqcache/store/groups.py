# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes the new blocks of one group of modules, merged with its packs when they are many.

A start maps all packs of a group and a lookup searches one after another, so there
must be few; and a merge copies all blocks, so it must be seldom.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from sysqcache.base.errors import FormatError
from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import BlockTable, Mask
from sysqcache.store.batch import Batch
from sysqcache.store.columns import Columns, StorePlaces
from sysqcache.store.crowding import without_crowded
from sysqcache.store.deadareas import DeadAreas
from sysqcache.store.layout import StoreLayout
from sysqcache.store.live import LivePack, is_damage
from sysqcache.store.records import PackRow, PackStatus
from sysqcache.store.writer import WrittenPack, new_seed, write_pack

MAX_LIVE: Final = 3
"""Live packs of one group and fingerprint; the next one is merged with all of them."""


GATHER: Final = 32
"""So many small live packs of one fingerprint become one, whatever their groups."""

SMALL: Final = 4 << 20
"""A pack of fewer bytes is small."""

GATHERED: Final = "gathered"
"""The group of packs that have been gathered: nothing new goes to them."""

GIVE_UP_AFTER: Final = 2
"""So many runs later, a block of generated code that none of them used is left behind."""


@dataclasses.dataclass(frozen=True, slots=True)
class Translator:
    """Who made the blocks: an engine (raw fingerprint, its text), for guests of ``arch``."""

    fingerprint: bytes
    text: str
    arch: str


def too_many_small(live: Sequence[LivePack]) -> list[LivePack]:
    """Live packs of one fingerprint that are better one; none while they are few.

    Each image brings packs of its own, and an engine maps a limited number.
    """
    small = [pack for pack in live if pack.row.bytes < SMALL]
    return small if len(small) >= GATHER else []


class GroupWriter:
    """Writes packs of one run and notes their rows in ``batch``.

    ``crowded`` counts the blocks that were left out, as too many share a key of the index,
    ``crowded_new`` those of them that the run brought.
    """

    def __init__(
        self,
        layout: StoreLayout,
        batch: Batch,
        translator: Translator,
        warnings: list[str],
        reached: Callable[[str], None],
        *,
        run: int,
        now: float,
        generated: Sequence[int],
    ) -> None:
        """:param run: number of this run; ``now``: its time, in seconds since 1970;
        ``generated``: modules of code made at run time.
        """
        self._now = now
        self._layout, self._batch, self._translator = layout, batch, translator
        self._run, self._generated = run, list(generated)
        self._warnings, self._reached = warnings, reached
        self.crowded = self.crowded_new = 0

    def write(
        self,
        group: str,
        live: list[LivePack],
        fresh: BlockTable,
        columns: Columns,
        dead: DeadAreas,
    ) -> Path:
        """Write new blocks alone, or merged with all live packs of their group.

        A merge leaves behind what is in dead places, and code made at run time that came
        once and not again, as most of it has other addresses each time. Raises OSError or
        FormatError.
        """
        tables, parts = [fresh], [columns]
        superseded: list[LivePack] = []
        for pack in live if len(live) >= MAX_LIVE else ():
            try:
                table, kept = pack.intact()
            except (FormatError, OSError) as error:
                self._leave_out(pack, error)
                continue
            alive = ~dead.cover(StorePlaces(kept.module, kept.offset))
            alive &= ~self._given_up(kept)
            tables.insert(len(superseded), table.select(alive))
            parts.insert(len(superseded), kept.select(alive))
            superseded.append(pack)
        written, columns = self._publish(tables, parts)
        self._put(group, written, columns)
        for pack in superseded:
            if pack.row.sha256 != written.sha256:
                row = dataclasses.replace(pack.row, status=PackStatus.SUPERSEDED)
                self._batch.drop_columns(row)
                self._batch.put(row)
        return written.path

    def _publish(
        self, tables: list[BlockTable], parts: list[Columns]
    ) -> tuple[WrittenPack, Columns]:
        """Write the blocks that a lookup will reach; the last table holds the new ones."""
        by, seed = self._translator, new_seed()
        tables, columns, left_out = without_crowded(tables, parts, seed)
        self.crowded += sum(left_out)
        self.crowded_new += left_out[-1]
        written = write_pack(
            self._layout.packs,
            by.fingerprint,
            by.text,
            tables,
            seed=seed,
            reached=self._reached,
        )
        return written, columns

    def _given_up(self, kept: Columns) -> Mask:
        """Blocks of code made at run time that no later run used."""
        once = (kept.uses == 1) & (kept.last + GIVE_UP_AFTER <= self._run)
        given_up: Mask = once & np.isin(kept.module, self._generated)
        return given_up

    def _leave_out(self, pack: LivePack, error: FormatError | OSError) -> None:
        damaged = is_damage(error)
        words = "is damaged, not merged" if damaged else "can't be merged now"
        self._warnings.append(f"pack {pack.row.sha256[:12]} {words}: {error}")
        if damaged:
            self._batch.put(dataclasses.replace(pack.row, status=PackStatus.DAMAGED))

    def _put(self, group: str, written: WrittenPack, columns: Columns) -> None:
        self._batch.put(
            PackRow(
                sha256=written.sha256,
                fingerprint=self._translator.fingerprint.hex(),
                arch=self._translator.arch,
                blocks=len(columns),
                bytes=written.size,
                created=self._now,
                last_used=self._now,
                group=group,
                shares=columns.shares(),
                version=bf.VERSION,
            )
        )
        self._batch.put_columns(written.sha256, columns)
