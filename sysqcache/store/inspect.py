# SPDX-License-Identifier: GPL-2.0-or-later
"""One module of the store in detail: who asks for it by which name, its blocks by offset."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sysqcache.base.errors import UsageError
from sysqcache.formats.blocktable import Offsets
from sysqcache.formats.modules import KINDS, UNPLACED, Module, ModuleKind
from sysqcache.store.columns import COLUMNS, Columns
from sysqcache.store.meta import Meta
from sysqcache.store.records import DeadRow, ModuleLine, ModuleRow, RunRow
from sysqcache.store.summary import NOBODY, lines_of

_ID_START: Final = re.compile(r"(?:sha256:)?([0-9a-f]{6,64})")
_KERNEL: Final = "kernel"
_MOST_LISTED: Final = 12


@dataclasses.dataclass(frozen=True)
class ModuleDetail:
    """A module and its n kept blocks, by offset.

    :param lines: totals, one for each fingerprint, the largest first.
    :param images: ids of the images that it was seen in.
    :param runs: runs that used it first or last, oldest first; others may have, too.
    :param columns: shape (n,), of the blocks.
    :param dead: places where its code rewrites itself, by offset.
    """

    row: ModuleRow
    lines: tuple[ModuleLine, ...]
    images: tuple[str, ...]
    runs: tuple[RunRow, ...]
    columns: Columns
    dead: tuple[DeadRow, ...]

    @property
    def module(self) -> Module | None:
        """What images and symbol tables know it by; None for code without a place."""
        if self.row.number == 0 or self.row.id.startswith(UNPLACED):
            return None
        return self.row.module

    def started(self, numbers: NDArray[np.uint32]) -> list[float]:
        """When runs started, by their numbers; the module's own times for runs nobody knows."""
        known = {run.number: run.started for run in self.runs}
        return [known.get(number, self.row.first_seen) for number in numbers.tolist()]

    def dead_at(self, offsets: Offsets) -> Offsets:
        """The place in ``dead`` that holds each offset, -1 for none; shape as ``offsets``."""
        found: Offsets = np.full(len(offsets), -1, np.int64)
        for place, area in enumerate(self.dead):
            inside = (offsets >= area.offset) & (offsets < area.offset + area.size)
            found[inside] = place
        return found


def detail(meta: Meta, asked: str) -> ModuleDetail:
    """The module that ``asked`` names, see :func:`choose`. Raises UsageError."""
    lines = lines_of(meta)
    rows = {0: NOBODY} | meta.modules()
    row = choose([rows[number] for number in lines], asked)
    columns = _blocks(meta, row.number)
    numbers = set(np.union1d(columns.first, columns.last).tolist())
    images = {image.number: image.image_id for image in meta.images().values()}
    return ModuleDetail(
        row=row,
        lines=tuple(sorted(lines[row.number], key=lambda line: -line.blocks)),
        images=tuple(images[number] for number in row.images if number in images),
        runs=tuple(run for run in meta.runs() if run.number in numbers),
        columns=columns,
        dead=tuple(area for area in meta.dead() if area.module == row.number),
    )


def _blocks(meta: Meta, number: int) -> Columns:
    """The kept blocks of a module, all fingerprints, by offset."""
    nothing: dict[str, Any] = {name: np.zeros(0, kind) for name, kind in COLUMNS.items()}
    parts = [Columns(**nothing)]
    for pack in meta.packs().values():
        if pack.live and (number in pack.shares or not pack.shares):
            columns = meta.columns(pack)
            parts.append(columns.select(columns.module == number))
    columns = Columns.concatenate(parts)
    return columns.select(np.lexsort((columns.flags, columns.offset)))


def choose(rows: Sequence[ModuleRow], asked: str) -> ModuleRow:
    """The one module that ``asked`` names.

    In this order: "kernel", the whole name or id, the last part of a path, the name of a
    kernel module with "-" for "_", six or more characters of an id; "KIND:" in front
    picks among kinds. Raises UsageError, which lists the candidates, for none or several.
    """
    found = candidates(rows, asked)
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"{len(found)} modules are called {asked!r}",
            hint=f"ask for one by its id, such as {_shortest(found)}",
            detail="\n".join(_describe(found)),
        )
    raise no_such_module(rows, asked)


def no_such_module(rows: Sequence[ModuleRow], asked: str) -> UsageError:
    """The error for a name that fits nothing, with the nearest one."""
    near = _near(rows, asked)
    hint = "`sysqcache cache list --all` shows every module"
    return UsageError(
        f"the store has no module {asked!r}",
        hint=f"did you mean {near}? {hint}" if near else hint,
    )


def candidates(rows: Iterable[ModuleRow], asked: str) -> list[ModuleRow]:
    """Modules that ``asked`` may mean, of the first way of naming that fits any."""
    kind, _, rest = asked.partition(":")
    if kind in [str(one) for one in KINDS] and rest:
        rows, asked = [row for row in rows if row.kind == kind], rest
    rows = list(rows)
    start = _ID_START.fullmatch(asked.lower())
    loaded = asked.removesuffix(".ko").replace("-", "_")
    ways: tuple[Callable[[ModuleRow], bool], ...] = (
        lambda r: asked == _KERNEL and r.kind == ModuleKind.KERNEL and not _is_unplaced(r),
        lambda r: asked in (r.name, r.id),
        lambda r: r.name.rpartition("/")[2] == asked,
        lambda r: r.kind == ModuleKind.KERNEL_MODULE and r.name.replace("-", "_") == loaded,
        lambda r: start is not None and r.id.removeprefix("sha256:").startswith(start[1]),
    )
    for way in ways:
        found = [row for row in rows if way(row)]
        if found:
            return found
    return []


def _is_unplaced(row: ModuleRow) -> bool:
    return row.id.startswith(UNPLACED)


def _shortest(found: Sequence[ModuleRow]) -> str:
    """An id, cut so that it still names one of the candidates alone."""
    one = found[0].id.removeprefix("sha256:")
    same = {row.id for row in found}
    return f"{found[0].kind}:{found[0].id}" if len(same) == 1 else one[:12]


def _describe(found: Sequence[ModuleRow]) -> list[str]:
    lines = [f"{row.kind:<13}  {row.id[:47]}  {row.name}" for row in found[:_MOST_LISTED]]
    rest = len(found) - len(lines)
    return [*lines, f"and {rest} more"] if rest else lines


def _near(rows: Iterable[ModuleRow], asked: str) -> str:
    import difflib

    names = {row.name.rpartition("/")[2] for row in rows} | {_KERNEL}
    found = difflib.get_close_matches(asked.rpartition("/")[2], sorted(names), n=1)
    return found[0] if found else ""
