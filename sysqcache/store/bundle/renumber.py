# SPDX-License-Identifier: GPL-2.0-or-later
"""Images, modules and dead places of a bundle under the numbers of the store that takes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from sysqcache.store.bundle import form
from sysqcache.store.meta import Meta
from sysqcache.store.records import DeadRow, ImageRow, ModuleRow

_MAX_IMAGE_FINGERPRINTS: Final = 8
_FILES: Final = "files:"


class Renumbering:
    """This store's numbers for those of a bundle, and the rows that change by it.

    ``image`` and ``module`` lead from the bundle's numbers to this store's. ``rows`` are all
    modules, known and new, by number, ``dead_rows`` the dead places of before. ``changed_*``
    are the rows to be written.
    """

    def __init__(self, meta: Meta, contents: form.Contents, now: float, run: int) -> None:
        self._now, self._run = now, run
        images, rows = meta.images(), meta.modules()
        self.highest_image = meta.counters.images
        self.highest_module = max(meta.counters.modules, *rows, 0)
        self.image = {0: 0} | {e.number: self._image(images, e) for e in contents.images}
        self.rows = dict(rows)
        numbers = {row.module: number for number, row in rows.items()}
        self.module = {0: 0}
        for entry in contents.modules:
            if entry.module not in numbers:
                self.highest_module += 1
                numbers[entry.module] = self.highest_module
            self.module[entry.number] = numbers[entry.module]
            self.rows[numbers[entry.module]] = self._module_row(numbers[entry.module], entry)
        self.changed_modules = [r for n, r in self.rows.items() if rows.get(n) != r]
        self.new_modules = len(self.rows) - len(rows)
        updated = [self._image_row(images.get(e.image_id), e) for e in contents.images]
        self.changed_images = [row for row in updated if images.get(row.image_id) != row]
        self.new_images = sum(row.image_id not in images for row in updated)
        self.dead_rows = meta.dead()
        known = {(row.module, row.offset) for row in self.dead_rows}
        found = [self._dead_row(entry) for entry in contents.dead]
        self.changed_dead = [row for row in found if (row.module, row.offset) not in known]

    def _image(self, images: Mapping[str, ImageRow], entry: form.ImageEntry) -> int:
        if entry.image_id in images:
            return images[entry.image_id].number
        self.highest_image += 1
        return self.highest_image

    def group(self, group: str) -> str:
        """The group of packs here; groups of files are named by images."""
        if group.startswith(_FILES):
            return f"{_FILES}{self.image[int(group.removeprefix(_FILES))]}"
        return group

    def _module_row(self, number: int, entry: form.ModuleEntry) -> ModuleRow:
        old = self.rows.get(number)
        images = {self.image[one] for one in entry.images}
        if old is not None:
            seen = tuple(sorted({*old.images, *images}))
            # a row that was made from the boot sets has no group
            return dataclasses.replace(old, images=seen, group=old.group or self.group(entry.group))
        return ModuleRow(
            number=number,
            id=entry.id,
            kind=str(entry.kind),
            name=entry.name,
            group=self.group(entry.group),
            first_seen=entry.first_seen,
            last_used=entry.last_used,
            images=tuple(sorted(images)),
            dead_unplaced=entry.dead_unplaced,
        )

    def _image_row(self, old: ImageRow | None, entry: form.ImageEntry) -> ImageRow:
        if old is None:
            return ImageRow(
                image_id=entry.image_id,
                number=self.image[entry.number],
                first_seen=self._now,
                last_used=self._now,
                fingerprints=entry.fingerprints[:_MAX_IMAGE_FINGERPRINTS],
                runs=entry.runs,
                modules={self.module[number]: run for number, run in entry.modules},
            )
        others = [f for f in entry.fingerprints if f not in old.fingerprints]
        found = (*old.fingerprints, *others)[:_MAX_IMAGE_FINGERPRINTS]
        # as if its last run had used them, so that its next start maps them
        modules = {self.module[number]: old.runs for number, _ in entry.modules} | old.modules
        return dataclasses.replace(old, fingerprints=found, modules=modules)

    def _dead_row(self, entry: form.DeadEntry) -> DeadRow:
        place = entry.model_dump() | {"module": self.module[entry.module]}
        return DeadRow(**place, first_run=self._run, last_run=self._run)
