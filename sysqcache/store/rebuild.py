# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the metadata anew from the packs, which describe themselves.

What a pack can't tell (which image brought a block, use counts, times) is taken
from the old metadata and the boot sets as far as they can be read. A damaged pack
is moved to ``damaged/``; its intact blocks are written into a new one first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from sysqcache.base.errors import FormatError, StoreError
from sysqcache.base.files import TEMPORARY
from sysqcache.formats.blocktable import BlockTable
from sysqcache.store import dedupe, key, references
from sysqcache.store.batch import Batch
from sysqcache.store.columns import Columns
from sysqcache.store.crowding import crowded
from sysqcache.store.layout import StoreLayout, move_aside
from sysqcache.store.live import is_damage
from sysqcache.store.manifest import publish, read_manifest
from sysqcache.store.meta import Meta, MetaDamaged
from sysqcache.store.old import OldMetadata
from sysqcache.store.pack import Pack, PackHeader, outdated_header
from sysqcache.store.records import (
    FingerprintRow,
    GlobalRow,
    ImageRow,
    ModuleShare,
    PackRow,
    PackStatus,
)
from sysqcache.store.writer import write_pack

UNKNOWN: Final = "unknown"
"""Image and architecture of blocks whose metadata are lost."""

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all); at the end they are the same, and not before."""

_READING, _DONE = 0.85, 0.97
"""Shares of the time that have passed when all packs were read, and when all rows are made.

As measured on a store of 97,000 blocks; the rest is the commit.
"""


def silent(_done: int, _total: int) -> None:
    """A progress listener that wants to know nothing."""


@dataclass
class RebuildReport:
    """What a rebuild found.

    :param moved: damaged files, where they are now.
    :param salvaged: intact blocks of damaged packs that were kept.
    :param lost: blocks that damaged packs should have had besides.
    :param outdated: packs of earlier format versions: left for ``compact``.
    :param refused: packs that can't be opened now, or that others could write, and why:
        their files and what was known of them stay as they are.
    """

    packs: int = 0
    blocks: int = 0
    superseded: int = 0
    salvaged: int = 0
    lost: int = 0
    outdated: int = 0
    moved: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    seconds: float = 0.0


class _Rebuilder:
    def __init__(self, layout: StoreLayout, old: OldMetadata, progress: Progress) -> None:
        self.layout, self.old, self.progress = layout, old, progress
        self.report = RebuildReport()
        self.batch = Batch()
        self.images = dict(old.images)
        self.fingerprints: dict[str, FingerprintRow] = {}
        self.kept: dict[str, tuple[PackRow, Columns]] = {}
        self.retired: list[PackRow] = []
        self.highest_run = old.counters.runs
        self.size = 0

    def scan(self) -> None:
        """Read every pack file, replace the damaged ones."""
        files = self.layout.pack_files()
        self.size = sum(path.lstat().st_size for path in files.values())
        done = 0
        for sha256, path in files.items():
            done += path.lstat().st_size
            if sha256 not in self.kept:
                self._scan_one(sha256, path)
            self.progress(int(done * _READING), self.size)

    def _scan_one(self, sha256: str, path: Path) -> None:
        old = self.old.packs.get(sha256)
        try:
            pack = Pack.open(path)
        except (FormatError, OSError) as error:
            if is_damage(error):
                self._retire(sha256, path, old)
            else:
                self._refuse(old, error)
            return
        table = pack.blocks()
        if is_whole(pack, table, sha256):
            self._keep(sha256, pack, table, path, old)
        else:
            self._salvage(pack, table, path, old)

    def _retire(self, sha256: str, path: Path, old: PackRow | None) -> None:
        """List a pack of an earlier format version as such; any other file is damaged."""
        head = outdated_header(path)
        if head is None:
            self._lose(path, old.blocks if old else 0)
            return
        row = _row(sha256, head, path, old)
        self.retired.append(dataclasses.replace(row, status=PackStatus.OUTDATED))

    def _refuse(self, old: PackRow | None, error: FormatError | OSError) -> None:
        """Leave what is known of a pack as it is."""
        self.report.refused.append(str(error))
        columns = self.old.columns(old)
        if old is None or columns is None:
            return
        columns = references.only_known(columns, self.old.modules, self._image_numbers())
        self._list(references.mended_shares(old, self.old.modules), columns, "")

    def _list(self, row: PackRow, columns: Columns, text: str) -> None:
        """Take a pack and its fingerprint, made of ``text``, into the new metadata."""
        self.kept[row.sha256] = (row, columns)
        known = self.old.fingerprints.get(row.fingerprint)
        self.fingerprints[row.fingerprint] = known or FingerprintRow(
            row.fingerprint, row.arch, text, row.created, row.last_used
        )

    def _lose(self, path: Path, blocks: int) -> None:
        self.report.lost += blocks
        self.report.moved.append(str(move_aside(self.layout, path)))

    def _salvage(self, pack: Pack, table: BlockTable, path: Path, old: PackRow | None) -> None:
        good = table.select(table.good_checksums())
        head = pack.header
        good = good.select(~crowded([good], None, head.seed)[0])
        if len(good):
            # with the old seed, so that a kill and another try leave one pack
            new = write_pack(self.layout.packs, head.fingerprint, head.text, [good], seed=head.seed)
            again = Pack.open(new.path)
            self._keep(new.sha256, again, again.blocks(), path, old)
            self.report.salvaged += len(good)
            if new.path == path:  # no block was damaged: the file is what its name says again
                return
        self._lose(path, max(pack.header.block_count - len(good), 0))

    def _keep(
        self, sha256: str, pack: Pack, table: BlockTable, path: Path, old: PackRow | None
    ) -> None:
        columns = self._columns(table, old)
        row = dataclasses.replace(
            _row(sha256, pack.header, path, old), shares=_shares(columns, old)
        )
        self._list(references.mended_shares(row, self.old.modules), columns, pack.header.text)

    def _columns(self, table: BlockTable, old: PackRow | None) -> Columns:
        """Columns of a pack: the old ones where they fit, else as if brought by run 0."""
        keys = key.identities(table)
        fresh = Columns.new(table, keys, 0, self._image(UNKNOWN, old).number)
        before = self.old.columns(old)
        if before is None:
            return fresh
        told = fresh.remembering(before, dedupe.split([before.key], keys).kept)
        return references.only_known(told, self.old.modules, self._image_numbers())

    def _image_numbers(self) -> set[int]:
        return {image.number for image in self.images.values()}

    def _image(self, image_id: str, old: PackRow | None) -> ImageRow:
        if image_id not in self.images:
            number = 1 + max((i.number for i in self.images.values()), default=0)
            now = old.last_used if old else time.time()
            self.images[image_id] = ImageRow(image_id, number, now, now)
        return self.images[image_id]

    def write(self, directory: Path) -> None:
        """Write all rows into a new RocksDB, then the boot sets."""
        total = sum(row.bytes for row, _ in self.kept.values())
        done = 0
        for row, columns in self._with_status():
            done += row.bytes
            self._wrote(done / total)
            self.batch.put(row)
            if row.live:
                self.batch.put_columns(row.sha256, columns)
                self.report.blocks += row.blocks
            self.report.packs += row.live
            self.report.superseded += not row.live
        self.report.outdated = len(self.retired)
        old, packs = self.old, [row for row, _ in self.kept.values()]
        numbers = self._image_numbers()
        self.batch.put(
            *self.retired,
            *self.fingerprints.values(),
            *(references.mended_image(one, old.modules) for one in self.images.values()),
            *(references.mended_module(one, numbers, packs) for one in old.modules.values()),
            *references.known_dead(old.dead, old.modules),
        )
        generation = 1 + self.old.generation
        images = max((i.number for i in self.images.values()), default=0)
        with Meta(directory) as meta:
            self._copy_runs()
            counters = GlobalRow(
                generation=generation,
                runs=self.highest_run,
                images=images,
                modules=max(self.old.modules, default=0),
            )
            meta.commit(self.batch, counters)
            # before the exchange: whoever finds boot sets of a later commit rebuilds again
            publish(self.layout, meta)

    def _wrote(self, share: float) -> None:
        """So much of what the packs hold is in the new metadata, which are not in use yet."""
        self.progress(int(self.size * (_READING + (_DONE - _READING) * share)), self.size)

    def _copy_runs(self) -> None:
        for journal, row in self.old.runs():
            self.batch.put_run(row, journal)
            if why := self.old.why(row.number):
                self.batch.put_why(row.number, why)
            self.highest_run = max(self.highest_run, row.number)

    def _with_status(self) -> Iterable[tuple[PackRow, Columns]]:
        """Rows with their status: superseded when larger packs have every block."""
        rows = sorted(self.kept.values(), key=lambda p: self._rank(p[0]))
        for fingerprint in self.fingerprints:
            packs = [pack for pack in rows if pack[0].fingerprint == fingerprint]
            # all at once: pack by pack, the larger ones would be sorted again for each
            keys = np.concatenate([columns.key for _, columns in packs])
            fresh = dedupe.split([], keys).fresh
            start = 0
            for row, columns in packs:
                end = start + len(columns)
                needed = not len(columns) or fresh[start:end].any()
                status = PackStatus.LIVE if needed else PackStatus.SUPERSEDED
                yield dataclasses.replace(row, status=status), columns
                start = end

    def _rank(self, row: PackRow) -> tuple[int, bool, str]:
        """Larger packs first; of two with the same blocks the one that the metadata know."""
        old = self.old.packs.get(row.sha256)
        return -row.blocks, old is None or not old.live, row.sha256


def _row(sha256: str, head: PackHeader, path: Path, old: PackRow | None) -> PackRow:
    """The row of a pack file, with what the old one tells, without shares."""
    # a file may have any time, whatever the clock was when it was copied
    modified = min(max(path.lstat().st_mtime, 0.0), time.time())
    return PackRow(
        sha256=sha256,
        fingerprint=head.fingerprint.hex(),
        arch=old.arch if old else _arch(head.text),
        blocks=head.block_count,
        bytes=head.file_size,
        created=old.created if old else modified,
        last_used=old.last_used if old else modified,
        group=old.group if old and old.group else UNKNOWN,
        version=head.version,
    )


def _shares(columns: Columns, old: PackRow | None) -> dict[int, ModuleShare]:
    """Blocks by module; as the boot sets had it when only they remain."""
    if columns.module.any() or old is None or old.blocks != len(columns):
        return columns.shares()
    return old.shares or columns.shares()


def is_whole(pack: Pack, table: BlockTable, sha256: str) -> bool:
    """Whether a file is what its name says, and ``table`` all that its header promises."""
    return pack.holds_all_of(table) and hashlib.sha256(pack.buffer).hexdigest() == sha256


def _arch(text: str) -> str:
    """The architecture that a fingerprint text names."""
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name.strip() in ("arch", "target") and value.strip():
            return value.strip()
    return UNKNOWN


def rebuild(layout: StoreLayout, progress: Progress = silent) -> RebuildReport:
    """Replace the metadata; under the store's lock.

    RocksDB that can't be read is moved to ``damaged/``. Raises StoreError or
    OSError; a kill at any point leaves the old metadata, or none, which makes the
    next user rebuild.
    """
    started = time.monotonic()
    old = OldMetadata(layout)
    directory = layout.root / f"{TEMPORARY}meta"
    shutil.rmtree(directory, ignore_errors=True)
    try:
        work = _Rebuilder(layout, old, progress)
        work.scan()
        work.write(directory)
    except MetaDamaged as error:  # of the new ones: the disk fails
        raise StoreError(f"new metadata can't be written to {directory}: {error}") from error
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    finally:
        old.close()
    if old.damaged or not layout.meta.is_dir():
        if layout.meta.is_symlink() or layout.meta.exists():
            work.report.moved.append(str(move_aside(layout, layout.meta)))
    else:
        shutil.rmtree(layout.meta)
    directory.rename(layout.meta)
    progress(work.size, work.size)
    work.report.seconds = time.monotonic() - started
    return work.report


def open_meta(layout: StoreLayout, warnings: list[str]) -> Meta:
    """Open the metadata for writing, rebuilt first when damaged or behind the packs.

    Under the store's lock. Raises StoreBusy or StoreError, never MetaDamaged.
    """
    try:
        meta = Meta(layout.meta)
        if not _behind(layout, meta):
            return meta
        meta.close()
        why = "they are older than the packs"
    except MetaDamaged as error:
        why = str(error)
    warnings.append(f"the store's metadata were rebuilt from its packs: {why}")
    rebuild(layout)
    try:
        return Meta(layout.meta)
    except MetaDamaged as error:
        raise StoreError(f"the metadata in {layout.meta} can't be rebuilt: {error}") from error


def _behind(layout: StoreLayout, meta: Meta) -> bool:
    """Whether a commit is missing: packs without metadata, or boot sets of a later commit."""
    generation = meta.counters.generation
    if generation == 0 and layout.pack_files():
        return True
    with contextlib.suppress(FormatError):
        return read_manifest(layout).generation > generation
    return False
