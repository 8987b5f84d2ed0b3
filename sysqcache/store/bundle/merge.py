# SPDX-License-Identifier: GPL-2.0-or-later
"""Takes the blocks of a bundle into a store, as a run brings its own.

Numbers of images and modules mean something in one store alone, so they are replaced by
this store's; a block that is kept already is left out, as is one in a dead place. The
packs are written anew and committed with one batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sysqcache.formats.blocktable import BlockTable
from sysqcache.formats.modules import ModuleKind
from sysqcache.store import dedupe, key
from sysqcache.store.batch import Batch
from sysqcache.store.bundle.read import Bundle, BundlePack, Progress, stage
from sysqcache.store.bundle.renumber import Renumbering
from sysqcache.store.columns import Columns, StorePlaces
from sysqcache.store.crowding import crowding_words
from sysqcache.store.deadareas import DeadAreas
from sysqcache.store.groups import GroupWriter, Translator
from sysqcache.store.layout import StoreLayout
from sysqcache.store.live import load_live
from sysqcache.store.manifest import publish
from sysqcache.store.meta import Meta
from sysqcache.store.records import FingerprintRow, GlobalRow, RunRow
from sysqcache.store.registry import mapped

IMPORT: Final = "import"
"""Mode and start of the run that stands for an import."""

_MAX_USES: Final = 1 << 30


@dataclass(frozen=True)
class ImportResult:
    """What became of a bundle.

    :param blocks_known: that the store had; ``blocks_dead``: left out, as their code
        rewrites itself; ``crowded``: left out, also of packs that were merged, as too many
        share a key of the index.
    :param modules_new, images_new: that the store did not know.
    """

    blocks_new: int = 0
    blocks_known: int = 0
    blocks_dead: int = 0
    crowded: int = 0
    packs: tuple[Path, ...] = ()
    modules_new: int = 0
    images_new: int = 0
    warnings: tuple[str, ...] = ()


class Merge:
    """One import: collects what is to be written, writes the packs, commits."""

    def __init__(
        self,
        layout: StoreLayout,
        meta: Meta,
        found: Bundle,
        reached: Callable[[str], None],
        progress: Progress,
    ) -> None:
        self._progress = stage(progress, 2, found.size)
        self._layout, self._meta, self._bundle, self._reached = layout, meta, found, reached
        self._now, self._run = meta.now(), meta.counters.runs + 1
        self._names = Renumbering(meta, found.contents, self._now, self._run)
        self._dead = DeadAreas([*self._names.dead_rows, *self._names.changed_dead])
        self._batch = Batch()
        self._warnings: list[str] = []
        self._packs: list[Path] = []
        self._counts = {"blocks_new": 0, "blocks_known": 0, "blocks_dead": 0, "crowded": 0}
        self._crowded_new = 0

    def apply(self) -> ImportResult:
        """Write what is new and commit; nothing is written when nothing is new."""
        names = self._names
        fingerprints = sorted({pack.entry.fingerprint for pack in self._bundle.packs})
        for done, fingerprint in enumerate(fingerprints):
            self._progress(done, len(fingerprints))
            of_one = [p for p in self._bundle.packs if p.entry.fingerprint == fingerprint]
            self._take(fingerprint, of_one)
        self._progress(1, 1)
        self._warnings += crowding_words(self._counts["crowded"])
        result = ImportResult(
            packs=tuple(self._packs),
            modules_new=names.new_modules,
            images_new=names.new_images,
            warnings=tuple(self._warnings),
            **self._counts,
        )
        if self._packs or names.changed_modules or names.changed_images or names.changed_dead:
            self._commit(result)
            self._reached("committed")
        # also what an import that was killed after its commit left undone
        publish(self._layout, self._meta)
        self._reached("boot-sets-written")
        return result

    def _take(self, fingerprint: str, packs: list[BundlePack]) -> None:
        """The blocks of one fingerprint."""
        table = BlockTable(
            packs[0].table.buffer,
            np.concatenate([pack.table.offsets for pack in packs]),
            np.concatenate([pack.table.headers for pack in packs]),
        )
        packs_here = load_live(self._layout, self._meta, fingerprint)
        live = packs_here.found
        keys = key.identities(table)
        split = dedupe.split([pack.columns.key for pack in live], keys)
        columns = self._columns(table, keys, packs)
        dead = self._dead.cover(StorePlaces(columns.module, columns.offset))
        fresh = split.fresh & ~dead
        self._counts["blocks_new"] += int(np.count_nonzero(fresh))
        self._counts["blocks_known"] += int(np.count_nonzero(~split.fresh))
        self._counts["blocks_dead"] += int(np.count_nonzero(split.fresh & dead))
        if not fresh.any():
            return
        self._warnings += packs_here.warnings()
        self._batch.put(*packs_here.lost)
        writer = self._writer(packs[0])
        groups = self._groups(columns.module, packs)
        for group in sorted(set(groups[fresh].tolist())):
            chosen = fresh & (groups == group)
            own = [pack for pack in live if pack.row.group == group]
            self._packs.append(
                writer.write(group, own, table.select(chosen), columns.select(chosen), self._dead)
            )
        self._counts["crowded"] += writer.crowded
        self._counts["blocks_new"] -= writer.crowded_new
        self._crowded_new += writer.crowded_new
        self._put_fingerprint(packs[0])

    def _columns(self, table: BlockTable, keys: key.Identities, packs: list[BundlePack]) -> Columns:
        """Columns of all blocks under this store's numbers, as if this import were a run."""
        carried = np.concatenate([pack.columns for pack in packs])
        module = mapped(carried["module"], self._names.module.__getitem__)
        places = StorePlaces(module, carried["offset"].copy())
        columns = Columns.new(table, keys, self._run, 0, places)
        image = mapped(carried["image"], self._names.image.__getitem__)
        return dataclasses.replace(
            columns, image=image, uses=np.clip(carried["uses"], 1, _MAX_USES)
        )

    def _groups(self, module: NDArray[np.uint32], packs: list[BundlePack]) -> NDArray[np.str_]:
        """The group of each block: its module's, or its pack's when nobody knows the module."""
        unique, inverse = np.unique(module, return_inverse=True)
        known = [self._names.rows[n].group if n else "" for n in unique.tolist()]
        of_pack = [(self._names.group(p.entry.group), len(p.table)) for p in packs]
        own = np.repeat([name for name, _ in of_pack], [count for _, count in of_pack])
        of_module = np.array(known, np.str_)[inverse]
        groups: NDArray[np.str_] = np.where(of_module == "", own, of_module)
        return groups

    def _writer(self, pack: BundlePack) -> GroupWriter:
        """The writer that ingests use."""
        head = pack.header
        generated = [n for n, row in self._names.rows.items() if row.kind == ModuleKind.JIT]
        return GroupWriter(
            self._layout,
            self._batch,
            Translator(head.fingerprint, head.text, pack.entry.arch),
            self._warnings,
            self._reached,
            run=self._run,
            now=self._now,
            generated=generated,
        )

    @property
    def _run_id(self) -> str:
        return f"{IMPORT}-{self._run}-{self._bundle.digest.hex()[:12]}"

    def _put_fingerprint(self, pack: BundlePack) -> None:
        fingerprint = pack.entry.fingerprint
        if fingerprint not in self._meta.fingerprints():
            self._batch.put(
                FingerprintRow(fingerprint, pack.entry.arch, pack.header.text, self._now, self._now)
            )

    def _commit(self, result: ImportResult) -> None:
        names = self._names
        self._batch.put(*names.changed_modules, *names.changed_images, *names.changed_dead)
        identity = self._bundle.digest[:8] + self._run.to_bytes(4, "little")
        self._batch.put_run(self._run_row(result), identity)
        counters = GlobalRow(
            generation=self._meta.counters.generation + 1,
            runs=self._run,
            images=names.highest_image,
            modules=names.highest_module,
        )
        self._meta.commit(self._batch, counters)

    def _run_row(self, result: ImportResult) -> RunRow:
        """The run that stands for the import: `first` and `last` of its blocks name it."""
        packs = self._bundle.contents.packs
        return RunRow(
            number=self._run,
            run_id=self._run_id,
            machine="",
            arch=packs[0].arch if packs else "",
            mode=IMPORT,
            start=IMPORT,
            started=self._now,
            ingested=self._now,
            image_id="",
            fingerprint=packs[0].fingerprint if packs else "",
            blocks_new=result.blocks_new,
            blocks_known=result.blocks_known,
            damaged=0,
            packs=tuple(path.stem for path in result.packs),
            blocks_dead=result.blocks_dead,
            crowded=result.crowded,
            crowded_new=self._crowded_new,
        )
