# SPDX-License-Identifier: GPL-2.0-or-later
"""What one ingest changes: new and merged packs, rows, use counts, as one commit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from sysqcache.blocktable import BlockTable, Offsets
from sysqcache.errors import FormatError
from sysqcache.store import dedupe
from sysqcache.store.batch import Batch
from sysqcache.store.columns import Columns
from sysqcache.store.layout import Layout
from sysqcache.store.live import LivePack, load_live
from sysqcache.store.meta import Meta
from sysqcache.store.recording import IngestResult, Recording
from sysqcache.store.records import (
    FingerprintRow,
    ImageRow,
    ModuleShare,
    PackRow,
    PackStatus,
    RunRow,
)
from sysqcache.store.writer import WrittenPack, write_pack

MAX_LIVE = 4
"""Live packs of one fingerprint; the next one is merged with all of them."""

_MAX_IMAGE_FINGERPRINTS = 8


class Change:
    """One ingest: collects what is to be written, writes the pack, commits."""

    def __init__(
        self, layout: Layout, meta: Meta, recording: Recording, reached: Callable[[str], None]
    ) -> None:
        self.layout, self.meta, self.recording, self.reached = layout, meta, recording, reached
        self.now = time.time()
        self.batch = Batch()
        self.run_number = meta.counters.runs + 1
        self.images = meta.images()
        self.image = self._image_row()
        self.warnings: list[str] = []

    def _image_row(self) -> ImageRow:
        """This run's image, used now, its fingerprint in front."""
        fingerprint, image_id = self.recording.fingerprint, self.recording.image_id
        old = self.images.get(image_id)
        if old is None:
            number = self.meta.counters.images + 1
            return ImageRow(image_id, number, self.now, self.now, (fingerprint,))
        others = [f for f in old.fingerprints if f != fingerprint]
        recent = (fingerprint, *others[: _MAX_IMAGE_FINGERPRINTS - 1])
        return dataclasses.replace(old, last_used=self.now, fingerprints=recent)

    def apply(self) -> IngestResult:
        """Write the pack, if any, and commit."""
        live = self._load()
        recorded, keys = self.recording.journal.blocks, self.recording.keys
        parts = dedupe.split([p.columns.key for p in live], keys)
        live = self._used_again(live, parts.again)
        fresh = recorded.select(parts.fresh)
        columns = Columns.new(
            keys[parts.fresh], fresh.padded_sizes(), self.run_number, self.image.number
        )
        written = self._write(live, fresh, columns) if len(fresh) else None
        result = IngestResult(
            blocks_new=len(fresh),
            blocks_known=len(recorded) - len(fresh),
            damaged=self.recording.journal.damaged,
            pack=written.path if written else None,
            seconds=0.0,
            warnings=tuple(self.warnings),
        )
        self._commit(result, written)
        return result

    def _load(self) -> list[LivePack]:
        live, lost = load_live(self.layout, self.meta, self.recording.fingerprint)
        for row in lost:
            self.warnings.append(f"pack {row.sha256[:12]} is {row.status}: not used any more")
            self.batch.put_pack(row)
        return live

    def _used_again(self, live: list[LivePack], again: Offsets) -> list[LivePack]:
        """Count the use of kept blocks; every live pack was mapped by the run."""
        start, updated = 0, []
        for pack in live:
            end = start + len(pack.columns)
            rows = again[(again >= start) & (again < end)] - start
            columns = pack.columns
            if len(rows):
                columns = columns.used_again(rows, self.run_number)
                self.batch.put_columns(pack.row.sha256, columns, ("uses", "last"))
            row = dataclasses.replace(pack.row, last_used=self.now)
            self.batch.put_pack(row)
            updated.append(LivePack(row, pack.pack, columns))
            start = end
        return updated

    def _write(self, live: list[LivePack], fresh: BlockTable, columns: Columns) -> WrittenPack:
        """Write the new blocks alone, or merged with all live packs."""
        tables, parts = [fresh], [columns]
        superseded: list[LivePack] = []
        if len(live) >= MAX_LIVE:
            for pack in live:
                try:
                    table, kept = pack.intact()
                except FormatError as error:
                    self._lose(pack, str(error))
                    continue
                superseded.append(pack)
                tables.insert(len(tables) - 1, table)
                parts.insert(len(parts) - 1, kept)
        header = self.recording.journal.header
        written = write_pack(
            self.layout.packs, header.fingerprint, header.text, tables, reached=self.reached
        )
        self._put_written(written, Columns.concatenate(parts))
        for pack in superseded:
            if pack.row.sha256 != written.sha256:
                row = dataclasses.replace(pack.row, status=PackStatus.SUPERSEDED)
                self.batch.drop_columns(row)
                self.batch.put_pack(row)
        return written

    def _lose(self, pack: LivePack, why: str) -> None:
        self.warnings.append(f"pack {pack.row.sha256[:12]} is damaged, not merged: {why}")
        self.batch.put_pack(dataclasses.replace(pack.row, status=PackStatus.DAMAGED))

    def _put_written(self, written: WrittenPack, columns: Columns) -> None:
        names = {row.number: row.image_id for row in self.images.values()}
        names[self.image.number] = self.image.image_id
        shares = {names[i]: ModuleShare(b, size) for i, b, size in columns.shares()}
        self.batch.put_pack(
            PackRow(
                sha256=written.sha256,
                fingerprint=self.recording.fingerprint,
                arch=self.recording.run.arch,
                blocks=len(columns),
                bytes=written.size,
                created=self.now,
                last_used=self.now,
                shares=shares,
            )
        )
        self.batch.put_columns(written.sha256, columns)

    def _commit(self, result: IngestResult, written: WrittenPack | None) -> None:
        run, header = self.recording.run, self.recording.journal.header
        fingerprint = self.recording.fingerprint
        old = self.meta.fingerprints().get(fingerprint)
        self.batch.put_fingerprint(
            FingerprintRow(
                fingerprint, run.arch, header.text, old.first_seen if old else self.now, self.now
            )
        )
        self.batch.put_image(self.image)
        self.batch.put_run(
            RunRow(
                number=self.run_number,
                run_id=run.run_id,
                machine=run.machine,
                arch=run.arch,
                mode=str(run.mode),
                start=run.start,
                started=run.started,
                ingested=self.now,
                image_id=self.image.image_id,
                fingerprint=fingerprint,
                blocks_new=result.blocks_new,
                blocks_known=result.blocks_known,
                damaged=result.damaged,
                pack=written.sha256 if written else "",
            ),
            header.identity,
        )
        counters = self.meta.counters
        self.meta.commit(
            self.batch,
            dataclasses.replace(
                counters,
                generation=counters.generation + 1,
                runs=self.run_number,
                images=max(counters.images, self.image.number),
            ),
        )
