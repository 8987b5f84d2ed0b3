# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules of the store: their numbers, and which packs their blocks go to.

Code that nobody could place is gathered under the kernel that it ran with (firmware
under the architecture; of a guest that nobody could look into, under the kernel file or
the disk that it was started from), so that every block belongs to something that a later
start can ask for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import Offsets
from sysqcache.formats.journal import Journal
from sysqcache.formats.modules import KINDS, UNPLACED, Module, ModuleKind
from sysqcache.formats.places import NO_MODULE, Places
from sysqcache.store.columns import StorePlaces
from sysqcache.store.records import ModuleRow

FIRMWARE_GROUP: Final = "firmware"
_OF_THE_KERNEL: Final = frozenset({ModuleKind.KERNEL, ModuleKind.KERNEL_MODULE, ModuleKind.JIT})


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a run's blocks ran in: architecture, image, and the kernel, see ``Places.kernel``."""

    arch: str
    image_id: str
    image: int
    kernel: Module | None

    def unplaced(self, kind: ModuleKind) -> Module:
        """What blocks of ``kind`` without a place are gathered under."""
        if kind == ModuleKind.FIRMWARE:
            return Module(kind, f"{UNPLACED}{self.arch}", f"firmware of {self.arch}")
        if self.kernel is None:
            return Module(kind, f"{UNPLACED}image:{self.image_id}", self.image_id)
        return Module(kind, f"{UNPLACED}{self.kernel.id}", f"{kind} under {self.kernel.name}")

    def group(self, module: Module) -> str:
        """The group of packs of a module that is seen for the first time.

        Images with the same kernel share the kernel's group; of the rest, what one image
        brought first stays together, so that an image of another kind need not map it.
        """
        if module.kind == ModuleKind.FIRMWARE:
            return FIRMWARE_GROUP
        if module.kind in _OF_THE_KERNEL and (self.kernel or module.kind == ModuleKind.KERNEL):
            return f"kernel:{(self.kernel or module).id}"
        return f"files:{self.image}"


class Registry:
    """Rows of all modules; those that a run uses are updated or made.

    ``changed`` are the rows to be written.
    """

    def __init__(self, rows: Mapping[int, ModuleRow], around: Surroundings, now: float) -> None:
        self.rows = dict(rows)
        self.changed: dict[int, ModuleRow] = {}
        self._around, self._now = around, now
        self._numbers = {row.module: number for number, row in rows.items()}

    @property
    def highest(self) -> int:
        """The highest number that was ever given."""
        return max(self.rows, default=0)

    def number(self, module: Module) -> int:
        """The number of a module of this run, a new one if need be."""
        number = self._numbers.get(module)
        if number is None:
            number = self.highest + 1
            self._numbers[module] = number
            self.rows[number] = ModuleRow(
                number=number,
                id=module.id,
                kind=str(module.kind),
                name=module.name,
                group=self._around.group(module),
                first_seen=self._now,
                last_used=self._now,
            )
        self.used(number)
        return number

    def used(self, number: int, dead_unplaced: int | None = None) -> None:
        """Note that this run used a module; numbers of no module are ignored."""
        row = self.rows.get(number)
        if row is None:
            return
        images = tuple(sorted({*row.images, self._around.image}))
        dead = row.dead_unplaced if dead_unplaced is None else dead_unplaced
        row = dataclasses.replace(row, last_used=self._now, images=images, dead_unplaced=dead)
        self.rows[number] = self.changed[number] = row

    def unplaced(self, kind: ModuleKind) -> int:
        """The number of what blocks of a kind without a place are gathered under."""
        return self.number(self._around.unplaced(kind))

    def of_kind(self, kind: ModuleKind) -> list[int]:
        """Numbers of all modules of a kind."""
        return [number for number, row in self.rows.items() if row.kind == kind]

    def groups(self, modules: np.ndarray[tuple[int], np.dtype[np.uint32]]) -> list[str]:
        """The group of each of an array of module numbers."""
        return [self.rows[number].group for number in modules.tolist()]


def record_offsets(journal: Journal) -> Offsets:
    """Where the record of each block begins in the journal, bytes."""
    return journal.blocks.offsets - bf.RECORD.size


def places(journal: Journal, found: Places, registry: Registry) -> StorePlaces:
    """Module numbers and offsets of all blocks of a journal."""
    record = record_offsets(journal)
    row = np.searchsorted(found.record, record)
    row0 = np.minimum(row, max(len(found.record) - 1, 0))
    listed = np.zeros(len(record), np.bool_)
    if len(found.record):
        listed = found.record[row0] == record
    local = np.full(len(record), NO_MODULE, np.int64)
    kind = np.full(len(record), KINDS.index(ModuleKind.UNKNOWN), np.int64)
    local[listed], kind[listed] = found.module[row0[listed]], found.kind[row0[listed]]
    module, offset = np.zeros(len(record), "<u4"), np.zeros(len(record), "<u4")
    placed = local != NO_MODULE
    module[placed] = mapped(local[placed], lambda one: registry.number(found.modules[one]))
    module[~placed] = mapped(kind[~placed], lambda one: registry.unplaced(KINDS[one]))
    offset[placed] = found.offset[row0[placed]]
    return StorePlaces(module, offset)


def mapped(values: NDArray[Any], number: Callable[[int], int]) -> NDArray[np.uint32]:
    """``number`` of each value, called once for each that there is."""
    unique, inverse = np.unique(values, return_inverse=True)
    return np.array([number(one) for one in unique.tolist()], "<u4")[inverse]
