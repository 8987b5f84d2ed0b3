# SPDX-License-Identifier: GPL-2.0-or-later
"""A journal becomes packs: what one ingest changes, as one commit.

The order is: pack file (written, synced, renamed, directory synced), one commit of
metadata, boot sets, removal of the journal. A kill between two steps leaves a store
in which every published file is whole; docs/formats.md says what remains after each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from sysqcache.formats.blocktable import BlockTable, Mask, Offsets
from sysqcache.formats.modules import ModuleKind
from sysqcache.store import deadareas, dedupe, outdated, registry, why
from sysqcache.store.batch import Batch
from sysqcache.store.columns import Columns, StorePlaces
from sysqcache.store.crowding import crowding_words
from sysqcache.store.deadareas import DeadAreas
from sysqcache.store.groups import GATHERED, GroupWriter, Translator, too_many_small
from sysqcache.store.key import Identities
from sysqcache.store.layout import StoreLayout
from sysqcache.store.live import adopted_rows, load_live
from sysqcache.store.manifest import publish
from sysqcache.store.meta import Meta
from sysqcache.store.recording import IngestResult, Recording
from sysqcache.store.records import FingerprintRow, GlobalRow, ImageRow, RunRow
from sysqcache.store.registry import Registry, Surroundings
from sysqcache.store.writer import nothing

_MAX_IMAGE_FINGERPRINTS: Final = 8

FORGET_AFTER: Final = 16
"""Runs of an image after which a module that none of them used leaves its boot set."""


class Change:
    """One ingest: collects what is to be written, writes the packs, commits."""

    def __init__(
        self, layout: StoreLayout, meta: Meta, recording: Recording, reached: Callable[[str], None]
    ) -> None:
        self.meta, self.recording = meta, recording
        self.now = meta.now()
        self.batch = Batch()
        self.run_number = meta.counters.runs + 1
        self.image = self._image_row()
        self.warnings: list[str] = []
        self.registry = Registry(meta.modules(), self._surroundings(), self.now)
        self.dead = DeadAreas(meta.dead())
        packs = load_live(layout, meta, recording.fingerprint)
        self.live = packs.found
        self.warnings += packs.warnings()
        self.batch.put(*packs.lost)
        self.warnings += outdated.retire(meta, self.batch)
        header = recording.journal.header
        self.writer = GroupWriter(
            layout,
            self.batch,
            Translator(header.fingerprint, header.text, recording.run.arch),
            self.warnings,
            reached,
            run=self.run_number,
            now=self.now,
            generated=self.registry.of_kind(ModuleKind.JIT),
        )

    def _image_row(self) -> ImageRow:
        """This run's image, used now, its fingerprint in front."""
        fingerprint, image_id = self.recording.fingerprint, self.recording.image_id
        old = self.meta.images().get(image_id)
        if old is None:
            number = self.meta.counters.images + 1
            return ImageRow(image_id, number, self.now, self.now, (fingerprint,), 1)
        others = [f for f in old.fingerprints if f != fingerprint]
        recent = (fingerprint, *others[: _MAX_IMAGE_FINGERPRINTS - 1])
        return dataclasses.replace(old, last_used=self.now, fingerprints=recent, runs=old.runs + 1)

    def _surroundings(self) -> Surroundings:
        recording = self.recording
        kernel = recording.places.kernel
        return Surroundings(recording.run.arch, self.image.image_id, self.image.number, kernel)

    def apply(self) -> IngestResult:
        """Write the packs, if any, and commit."""
        recording = self.recording
        recorded = recording.journal.blocks
        places = registry.places(recording.journal, recording.places, self.registry)
        parts = dedupe.split([p.columns.key for p in self.live], recording.keys)
        adopted = adopted_rows(self.live, recording.journal)
        again = np.union1d(parts.again, adopted)
        self._learn(places, again)
        dead = self.dead.cover(places)
        self._explain(places, parts, dead)
        self._use_again(again)
        fresh = parts.fresh & ~dead
        packs = self._write(recorded.select(fresh), recording.keys[fresh], places.select(fresh))
        self.warnings += crowding_words(self.writer.crowded)
        result = IngestResult(
            blocks_new=int(np.count_nonzero(fresh)) - self.writer.crowded_new,
            blocks_known=int(np.count_nonzero(~parts.fresh)),
            blocks_dead=int(np.count_nonzero(parts.fresh & dead)),
            crowded=self.writer.crowded,
            damaged=recording.journal.damaged,
            packs=packs,
            seconds=0.0,
            warnings=tuple(self.warnings),
        )
        self._commit(result, len(adopted))
        return result

    def _learn(self, places: StorePlaces, again: Offsets) -> None:
        """Note which modules the run used, and which of their places rewrite themselves.

        :param again: rows of kept blocks that it used: their modules have to be mapped
            next time, even where its own copy of the code belongs to another one.
        """
        journal, found = self.recording.journal, self.recording.places
        reports = deadareas.reports(journal, found, self.registry)
        kept = np.concatenate([np.zeros(0, "<u4"), *(p.columns.module for p in self.live)])
        used = set(np.unique(np.concatenate([places.module, kept[again]])).tolist())
        used |= {report.module for report in reports}
        for number in used:
            self.registry.used(number, dead_unplaced=0)
        if unplaced := len(journal.dead) - len(reports):
            number = self.registry.unplaced(deadareas.UNPLACED)
            self.registry.used(number, dead_unplaced=unplaced)
            used.add(number)
        self.dead.learn(self.run_number, reports, used)
        self._remember(used)

    def _remember(self, used: set[int]) -> None:
        """Modules of the image's next boot set: those of its latest runs."""
        run = self.image.runs
        recent = {n: r for n, r in self.image.modules.items() if run - r < FORGET_AFTER}
        self.image = dataclasses.replace(
            self.image, modules=recent | dict.fromkeys(used - {0}, run)
        )

    def _explain(self, places: StorePlaces, parts: dedupe.Split, dead: Mask) -> None:
        """Write down why blocks had to be translated; a first run explains itself."""
        if not self.live:
            return
        mapped = set(self.recording.journal.packs.values())
        of_row = [np.full(len(p.columns), p.row.sha256 in mapped) for p in self.live]
        was_mapped = np.concatenate([*of_row, np.zeros(1, np.bool_)])[parts.kept]
        known = parts.kept >= 0
        flags = self.recording.journal.blocks.headers["flags"]
        columns = [p.columns for p in self.live]
        elsewhere = self._elsewhere(~known)
        reason = why.reasons(known, was_mapped, dead, elsewhere, places, flags, columns)
        self.batch.put_why(self.run_number, why.count(places.module, reason))

    def _elsewhere(self, asked: Mask) -> Mask:
        """Which recorded blocks are kept for the image's previous fingerprint."""
        others = self.image.fingerprints[1:2]
        found = np.zeros(len(asked), np.bool_)
        rows = [p for p in self.meta.packs().values() if p.live and p.fingerprint in others]
        if rows and asked.any():
            kept = [self.meta.columns(row).key for row in rows]
            found[asked] = dedupe.split(kept, self.recording.keys[asked]).kept >= 0
        return found

    def _use_again(self, rows: Offsets) -> None:
        """Count the use of kept blocks; a pack is used when one of its blocks is."""
        start, updated = 0, []
        for pack in self.live:
            end = start + len(pack.columns)
            own = rows[(rows >= start) & (rows < end)] - start
            row, columns = pack.row, pack.columns
            if len(own):
                columns = columns.used_again(own, self.run_number)
                self.batch.put_columns(row.sha256, columns, ("uses", "last"))
                row = dataclasses.replace(row, last_used=self.now)
                self.batch.put(row)
            updated.append(dataclasses.replace(pack, row=row, columns=columns))
            start = end
        self.live = updated

    def _write(self, fresh: BlockTable, keys: Identities, places: StorePlaces) -> tuple[Path, ...]:
        """One pack for each group of modules that has new blocks."""
        columns = Columns.new(fresh, keys, self.run_number, self.image.number, places)
        written = self._gather(fresh, columns)
        groups = np.array(self.registry.groups(places.module), np.str_)
        for group in sorted(set(groups.tolist())):
            chosen = groups == group
            live = [p for p in self.live if p.row.group == group]
            written.append(
                self.writer.write(
                    group, live, fresh.select(chosen), columns.select(chosen), self.dead
                )
            )
        return tuple(written)

    def _gather(self, fresh: BlockTable, columns: Columns) -> list[Path]:
        """Make one pack of the small ones, if they are many; they are live no more."""
        small = too_many_small(self.live)
        if not small:
            return []
        none = np.zeros(0, np.int64)
        names = {pack.row.sha256 for pack in small}
        self.live = [pack for pack in self.live if pack.row.sha256 not in names]
        written = self.writer.write(
            GATHERED, small, fresh.select(none), columns.select(none), self.dead
        )
        return [written]

    def _commit(self, result: IngestResult, adopted: int) -> None:
        self.batch.put(*self.registry.changed.values(), *self.dead.changed)
        for area in self.dead.revived:
            self.batch.drop_dead(area)
        self.batch.put(self._fingerprint_row(), self.image)
        identity = self.recording.journal.header.identity
        self.batch.put_run(self._run_row(result, adopted), identity)
        counters = self.meta.counters
        self.meta.commit(
            self.batch,
            GlobalRow(
                generation=counters.generation + 1,
                runs=self.run_number,
                images=max(counters.images, self.image.number),
                modules=max(counters.modules, self.registry.highest),
            ),
        )

    def _fingerprint_row(self) -> FingerprintRow:
        fingerprint, header = self.recording.fingerprint, self.recording.journal.header
        old = self.meta.fingerprints().get(fingerprint)
        first_seen = old.first_seen if old else self.now
        arch = self.recording.run.arch
        return FingerprintRow(fingerprint, arch, header.text, first_seen, self.now)

    def _run_row(self, result: IngestResult, adopted: int) -> RunRow:
        run, journal = self.recording.run, self.recording.journal
        return RunRow(
            number=self.run_number,
            run_id=run.run_id,
            machine=run.machine,
            arch=run.arch,
            mode=str(run.mode),
            start=run.start,
            started=run.started,
            ingested=self.now,
            image_id=self.image.image_id,
            fingerprint=self.recording.fingerprint,
            blocks_new=result.blocks_new,
            blocks_known=result.blocks_known,
            damaged=result.damaged,
            packs=tuple(path.stem for path in result.packs),
            blocks_dead=result.blocks_dead,
            crowded=result.crowded,
            crowded_new=self.writer.crowded_new,
            dead_areas=len(journal.dead),
            adopted=adopted,
            counters=dict(self.recording.counters),
            kinds={str(k): n for k, n in self.recording.places.counts().items() if n},
        )


def ingest_recording(
    layout: StoreLayout,
    meta: Meta,
    recording: Recording,
    *,
    reached: Callable[[str], None] = nothing,
) -> IngestResult:
    """Keep what is new of a recording; under the store's lock.

    Raises MetaDamaged (rebuild, then call again) or StoreError or OSError; then the
    store is as before, but for a pack file that nothing refers to yet.
    """
    done = meta.run_of(recording.journal.header.identity)
    if done is not None:
        publish(layout, meta)
        packs = tuple(layout.pack(name) for name in done.packs)
        return IngestResult(done.blocks_new, done.blocks_known, done.damaged, packs, 0.0)
    change = Change(layout, meta, recording, reached)
    result = change.apply()
    reached("committed")
    publish(layout, meta)
    reached("boot-sets-written")
    return result
