# SPDX-License-Identifier: GPL-2.0-or-later
"""The answer in the making: which block got its place, and which are still open."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from sysqcache.attribution.blocks import I32, I64, U8, U64, Mask, RecordedBlocks
from sysqcache.formats.modules import KINDS, Module, ModuleKind
from sysqcache.formats.places import NO_MODULE, Places

NUMBER_OF: Final = {kind: number for number, kind in enumerate(KINDS)}
"""Places of kinds in ``modules.KINDS``."""

_OFFSETS: Final = 1 << 32


class Board:
    """Places of ``blocks``; the first place that a block gets stays.

    ``module``: numbers of modules, shape (n,), ``NO_MODULE`` for open blocks.
    """

    def __init__(self, blocks: RecordedBlocks) -> None:
        self.blocks = blocks
        self.kernel: Module | None = None
        self._modules: list[Module] = []
        self._numbers: dict[Module, int] = {}
        self.module: I32 = np.full(len(blocks), NO_MODULE, np.int32)
        self._offset: U64 = np.zeros(len(blocks), np.uint64)
        self._kind: U8 = np.full(len(blocks), NUMBER_OF[ModuleKind.UNKNOWN], np.uint8)
        self._dead: dict[int, tuple[int, int]] = {}

    @property
    def open(self) -> Mask:
        """Which blocks have no place yet, shape (n,)."""
        open_: Mask = self.module == NO_MODULE
        return open_

    def first(self, module: Module) -> int:
        """The first row that was placed in a module, n for none."""
        rows = np.flatnonzero(self.module == self._numbers.get(module, len(self._modules)))
        return int(rows[0]) if len(rows) else len(self.blocks)

    def number(self, module: Module) -> int:
        """The number of a module; a later name fills in for none."""
        known = self._numbers.setdefault(module, len(self._modules))
        if known == len(self._modules):
            self._modules.append(module)
        elif module.name and not self._modules[known].name:
            self._modules[known] = module
        return known

    def place(self, rows: I64, module: I64 | I32 | int, offset: U64) -> None:
        """Give blocks their places; rows that are not open, or whose offset is no
        offset of a module (4 GiB and more), stay as they are.
        """
        numbers: Any = np.broadcast_to(np.asarray(module, np.int32), rows.shape)
        good = (self.module[rows] == NO_MODULE) & (numbers != NO_MODULE)
        good &= offset < np.uint64(_OFFSETS)
        rows, numbers = rows[good], numbers[good]
        self.module[rows], self._offset[rows] = numbers, offset[good]
        kinds = np.array([NUMBER_OF[one.kind] for one in self._modules], np.uint8)
        if len(rows):
            self._kind[rows] = kinds[numbers]

    def classify(self, rows: I64 | Mask, kind: ModuleKind) -> None:
        """Say what blocks are that stay without a place."""
        chosen = np.zeros(len(self.blocks), bool)
        chosen[rows] = True
        unknown = self._kind == NUMBER_OF[ModuleKind.UNKNOWN]
        self._kind[chosen & self.open & unknown] = NUMBER_OF[kind]

    def bury(self, ram: int, module: int, offset: int) -> None:
        """Give a dead area its place; the first one stays."""
        if module != NO_MODULE and offset < _OFFSETS:
            self._dead.setdefault(ram, (module, offset))

    def places(self) -> Places:
        """What was found out."""
        dead = sorted(self._dead.items())
        return Places(
            modules=tuple(self._modules),
            record=self.blocks.record,
            module=self.module,
            offset=self._offset.astype(np.uint32),
            kind=self._kind,
            kernel=self.kernel,
            dead_ram=np.array([ram for ram, _ in dead], np.uint64),
            dead_module=np.array([place[0] for _, place in dead], np.int32),
            dead_offset=np.array([place[1] for _, place in dead], np.uint32),
        )
