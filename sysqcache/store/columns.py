# SPDX-License-Identifier: GPL-2.0-or-later
"""Metadata of a pack's blocks as columns: one number per block and column.

One value per row and column would cost RocksDB more than 100 bytes a block; as
columns of 65,536 rows a value, compressed, a block costs about 20.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import BlockTable, Mask, Offsets
from sysqcache.store.key import IDENTITY
from sysqcache.store.records import ModuleShare

CHUNK: Final = 1 << 16
"""Rows of one stored value."""

U32 = NDArray[np.uint32]

COLUMNS: Final[Mapping[str, np.dtype[np.void] | np.dtype[np.uint32]]] = {
    "key": IDENTITY,
    "units": np.dtype("<u4"),
    "uses": np.dtype("<u4"),
    "first": np.dtype("<u4"),
    "last": np.dtype("<u4"),
    "image": np.dtype("<u4"),
    "module": np.dtype("<u4"),
    "offset": np.dtype("<u4"),
    "flags": np.dtype("<u4"),
    "size": np.dtype("<u4"),
}
"""Column name to the type of its numbers, as docs/formats.md lists them."""

LATER: Final = ("module", "offset", "flags", "size")
"""Columns that older stores do not have; zeros say as much."""


@dataclass(frozen=True)
class Columns:
    """Metadata of the n blocks of one pack, in file order; every shape is (n,).

    :param key: dedupe key, see ``store.key``.
    :param units: size of the block with padding, in units of 16 bytes.
    :param uses: runs that recorded or adopted the block.
    :param first, last: numbers of the first and last of these runs.
    :param image: number of the image that recorded it first.
    :param module: number of the module that it belongs to, 0 when nobody knows.
    :param offset: bytes from the module's start, 0 in modules without places.
    :param flags: as in the block's header.
    :param size: guest bytes.
    """

    key: NDArray[np.void]
    units: U32
    uses: U32
    first: U32
    last: U32
    image: U32
    module: U32
    offset: U32
    flags: U32
    size: U32

    def __len__(self) -> int:
        return len(self.key)

    @classmethod
    def new(
        cls,
        table: BlockTable,
        key: NDArray[np.void],
        run: int,
        image: int,
        places: StorePlaces | None = None,
    ) -> Columns:
        """Blocks that run ``run`` of image ``image`` brought.

        :param places: of the blocks of ``table``; by default nobody knows them.
        """
        count = len(key)
        places = places or StorePlaces.nowhere(count)
        return cls(
            key=key,
            units=(table.padded_sizes() // bf.ALIGN).astype("<u4"),
            uses=np.ones(count, "<u4"),
            first=np.full(count, run, "<u4"),
            last=np.full(count, run, "<u4"),
            image=np.full(count, image, "<u4"),
            module=places.module,
            offset=places.offset,
            flags=table.headers["flags"].astype("<u4"),
            size=table.headers["guest_size"].astype("<u4"),
        )

    @classmethod
    def concatenate(cls, parts: list[Columns]) -> Columns:
        """All rows of all parts, in order; at least one part."""
        return cls(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in COLUMNS})

    def select(self, chosen: Mask | Offsets) -> Columns:
        """The rows that a mask or an index array chooses."""
        return Columns(**{n: getattr(self, n)[chosen] for n in COLUMNS})

    def offsets(self) -> Offsets:
        """Where each block starts in the pack file, in bytes."""
        ends = np.cumsum(self.units.astype(np.int64)) * bf.ALIGN
        starts: Offsets = ends - self.units.astype(np.int64) * bf.ALIGN + bf.HEADER_SIZE
        return starts

    def used_again(self, rows: Offsets, run: int) -> Columns:
        """The same blocks after run ``run`` recorded ``rows`` (no row twice) again."""
        uses, last = self.uses.copy(), self.last.copy()
        uses[rows] += 1
        last[rows] = run
        return dataclasses.replace(self, uses=uses, last=last)

    def remembering(self, old: Columns, row: Offsets) -> Columns:
        """The same blocks with what older columns tell of them.

        :param row: shape (n,): the row of each block in ``old``, -1 where it has none.
        """
        known = row >= 0
        told = {}
        for name in ("uses", "first", "last", "image", "module", "offset"):
            told[name] = getattr(self, name).copy()
            told[name][known] = getattr(old, name)[row[known]]
        return dataclasses.replace(self, **told)

    def chunks(self, names: tuple[str, ...] = tuple(COLUMNS)) -> Iterator[tuple[str, int, bytes]]:
        """(column, chunk number, stored value) of every chunk of the named columns."""
        for name in names:
            values = np.ascontiguousarray(getattr(self, name), COLUMNS[name])
            for number, start in enumerate(range(0, len(self), CHUNK)):
                yield name, number, values[start : start + CHUNK].tobytes()

    def shares(self) -> dict[int, ModuleShare]:
        """Blocks and bytes of every module that has blocks here, by its number."""
        modules, inverse = np.unique(self.module, return_inverse=True)
        counts = np.bincount(inverse, minlength=len(modules))
        units = np.bincount(inverse, self.units, minlength=len(modules))
        rows = zip(modules.tolist(), counts.tolist(), units.tolist(), strict=True)
        return {module: ModuleShare(count, int(total) * bf.ALIGN) for module, count, total in rows}


@dataclass(frozen=True)
class StorePlaces:
    """Where n blocks belong: ``module`` numbers and ``offset`` in bytes, shape (n,)."""

    module: U32
    offset: U32

    @classmethod
    def nowhere(cls, count: int) -> StorePlaces:
        """Blocks of which nobody knows whose they are."""
        return cls(np.zeros(count, "<u4"), np.zeros(count, "<u4"))

    def select(self, chosen: Mask | Offsets) -> StorePlaces:
        """The rows that a mask or an index array chooses."""
        return StorePlaces(self.module[chosen], self.offset[chosen])


def join_chunks(name: str, values: list[bytes]) -> Any:
    """A column from its stored values; raises ValueError for a torn value."""
    return np.frombuffer(b"".join(values), COLUMNS[name])
