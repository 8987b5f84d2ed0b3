# SPDX-License-Identifier: GPL-2.0-or-later
"""A picture of a module: how much of each region is kept, as a heat map of text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rich.text import Text

Numbers = NDArray[np.int64]

CELLS: Final = 48
"""Cells of a region, one line each."""

REGIONS: Final = 16
"""At most so many regions."""

_SHADES: Final = "\N{MIDDLE DOT}\N{LIGHT SHADE}\N{MEDIUM SHADE}\N{DARK SHADE}\N{FULL BLOCK}"
_SMALLEST: Final = 16


def merged(starts: Numbers, sizes: Numbers) -> tuple[Numbers, Numbers]:
    """Starts and ends of the areas that n overlapping ones cover, ascending, apart."""
    order = np.argsort(starts, kind="stable")
    begin, end = starts[order], np.maximum.accumulate((starts + sizes)[order])
    apart = np.flatnonzero(begin[1:] > end[:-1])
    first = np.concatenate([[0], apart + 1])
    last = np.concatenate([apart, [len(begin) - 1]])
    return begin[first], end[last]


def covered_below(areas: tuple[Numbers, Numbers], places: Numbers) -> Numbers:
    """Covered bytes below each of some places; ``areas`` are those of :func:`merged`."""
    starts, ends = areas
    before = np.concatenate([[0], np.cumsum(ends - starts)])
    whole = np.searchsorted(ends, places, side="right")
    inside = np.minimum(whole, len(starts) - 1)
    part = np.where(whole < len(starts), np.maximum(places - starts[inside], 0), 0)
    found: Numbers = before[whole] + part
    return found


@dataclasses.dataclass(frozen=True)
class Region:
    """One line of the picture.

    :param start: offset of its first byte; ``size`` bytes.
    :param cells: shape (CELLS,): share of each cell that is covered, 0..1.
    :param again: which of these hold blocks that more than one run used.
    :param rows: of the blocks that begin in it, a slice of what was drawn.
    """

    start: int
    size: int
    cells: NDArray[np.float64]
    again: NDArray[np.bool_]
    rows: slice

    @property
    def share(self) -> float:
        """How much of it is covered, 0..1."""
        return float(self.cells.mean())

    def picture(self) -> Text:
        """The cells: the fuller the darker; green where several runs met."""
        from rich.text import Text

        text = Text()
        for share, again in zip(self.cells.tolist(), self.again.tolist(), strict=True):
            shade = 0 if not share else 1 + min(int(share * 4), 3)
            text.append(_SHADES[shade], "green" if again else "cyan" if shade else "dim")
        return text


def regions(starts: Numbers, sizes: Numbers, uses: Numbers) -> list[Region]:
    """The picture of blocks at ``starts`` (ascending, shape (n,)), from the first to the last.

    Cells are a power of two of bytes. No blocks give no regions.
    """
    if not len(starts):
        return []
    areas = merged(starts, sizes)
    low, high = int(areas[0][0]), int(areas[1][-1])
    cell = _cell(low, high)
    line = cell * CELLS
    low -= low % cell
    edges = low + cell * np.arange(-(-(high - low) // line) * CELLS + 1, dtype=np.int64)
    shares = np.diff(covered_below(areas, edges)) / cell
    again = np.bincount((starts - low) // cell, uses > 1, minlength=len(shares)) > 0
    return [
        Region(
            start=int(edges[first]),
            size=line,
            cells=shares[first : first + CELLS],
            again=again[first : first + CELLS],
            rows=slice(*np.searchsorted(starts, edges[[first, first + CELLS]]).tolist()),
        )
        for first in range(0, len(shares), CELLS)
    ]


def _cell(low: int, high: int) -> int:
    """Bytes of a cell so that all regions fit."""
    cell = _SMALLEST
    while -(-(high - low + cell) // (cell * CELLS)) > REGIONS:
        cell *= 2
    return cell


def rows(found: list[Region], best: Callable[[slice], str]) -> Iterator[tuple[Text, ...]]:
    """Cells of a table: offset, picture, share, blocks, and what ``best`` says of the blocks."""
    from rich.text import Text

    for region in found:
        count = region.rows.stop - region.rows.start
        yield (
            Text(f"{region.start:#x}"),
            region.picture(),
            Text(f"{region.share:.0%}"),
            Text(f"{count:,}" if count else ""),
            Text(best(region.rows) if count else ""),
        )
