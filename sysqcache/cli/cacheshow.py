# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache cache show`: one module, its functions and a picture of what is kept of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sysqcache.cli import cacheview as view
from sysqcache.cli.options import Json, print_json

if TYPE_CHECKING:
    from sysqcache.attribution.imagescan.symbols import SymbolTable
    from sysqcache.store.inspect import ModuleDetail

_FUNCTIONS: Final = 15
_IMAGES: Final = 5


def show(
    module: Annotated[
        str,
        typer.Argument(
            metavar="MODULE",
            help="A path or its last part, a kernel module, 'kernel', or the start of an id.",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Show one module: its blocks by offset, functions, images and runs.

    When several modules have a name, they are listed with their ids. Names of functions
    come from the image, if a machine of this host has it.
    """
    from sysqcache.cli.cachenames import symbols

    store = view.open_store()
    detail = store.module(module)
    view.warn(store)
    table, note = symbols(detail.module, detail.images)
    if as_json:
        print_json(_values(detail, table, note))
        return
    _print_head(detail)
    _print_lines(detail)
    if detail.module is not None:
        _print_picture(detail, table)
    _print_functions(detail, table)
    if note:
        typer.echo(note)


def functions(detail: ModuleDetail, table: SymbolTable | None) -> list[dict[str, Any]]:
    """Blocks by function, the one with the most first; none without symbols."""
    if table is None:
        return []
    columns = detail.columns
    found: dict[str, dict[str, Any]] = {}
    rows = zip(columns.offset.tolist(), columns.units.tolist(), columns.uses.tolist(), strict=True)
    for offset, units, uses in rows:
        name, inside = table.find(offset)
        entry = found.setdefault(
            name, {"name": name, "offset": offset - inside, "blocks": 0, "bytes": 0, "uses": 0}
        )
        entry["blocks"] += 1
        entry["bytes"] += units * 16
        entry["uses"] += uses
    found.pop("", None)
    return sorted(found.values(), key=lambda f: (-f["blocks"], -f["uses"], f["name"]))


def _values(detail: ModuleDetail, table: SymbolTable | None, note: str) -> dict[str, Any]:
    """The JSON object: that of `cache list` for one module, and its blocks."""
    from dataclasses import asdict

    from sysqcache.store.summary import iso_time

    row = detail.row
    return {
        "modules": [asdict(line) for line in detail.lines],
        "bytes": sum(line.bytes for line in detail.lines),
        "id": row.id,
        "kind": row.kind,
        "name": row.name,
        "first_seen": iso_time(row.first_seen) if row.first_seen else None,
        "last_seen": iso_time(row.last_used) if row.last_used else None,
        "seen_in": list(detail.images),
        "runs": [
            {
                "run": run.run_id,
                "machine": run.machine,
                "image": run.image_id,
                "started": iso_time(run.started),
            }
            for run in detail.runs
        ],
        "functions": functions(detail, table),
        "note": note,
        "offsets": _offsets(detail, table),
    }


def _offsets(detail: ModuleDetail, table: SymbolTable | None) -> list[dict[str, Any]]:
    """One object a block, and one for each dead place without blocks, by offset."""
    import numpy as np

    from sysqcache.store.summary import iso_time

    def entry(
        offset: int, size: int, flags: int, uses: int, place: int, *seen: float
    ) -> dict[str, Any]:
        area = detail.dead[place] if place >= 0 else None
        first, last = map(iso_time, seen)
        return {
            "offset": offset,
            "size": size,
            "flags": flags,
            "uses": uses,
            "symbol": (table.lookup(offset) or None) if table else None,
            "dead": area and {"reason": area.reason, "changes": area.changes},
            "first_seen": first,
            "last_seen": last,
        }

    columns = detail.columns
    dead = detail.dead_at(columns.offset.astype(np.int64)).tolist()
    times = (detail.started(columns.first), detail.started(columns.last))
    numbers = (columns.offset, columns.size, columns.flags, columns.uses)
    rows = zip(*(n.tolist() for n in numbers), dead, *times, strict=True)
    found = [entry(*row) for row in rows]
    for place, area in enumerate(detail.dead):
        if place not in dead:
            seen = detail.started(np.array([area.first_run, area.last_run], "<u4"))
            found.append(entry(area.offset, area.size, 0, 0, place, *seen))
    return sorted(found, key=lambda row: (row["offset"], row["flags"]))


def _print_head(detail: ModuleDetail) -> None:
    from sysqcache.store.summary import iso_time

    row = detail.row
    grid = view.grid(2, 0)
    view.add(grid, row.kind, row.name or "(no name)", style="bold")
    view.add(grid, "id", row.id)
    first, last = (view.moment(iso_time(t)) for t in (row.first_seen, row.last_used))
    used = f"{first} UTC" if first == last else f"{first} to {last} UTC"
    view.add(grid, "used", used if row.last_used else "not known any more")
    shown = list(detail.images[:_IMAGES])
    if len(detail.images) > len(shown):
        shown.append(f"and {len(detail.images) - len(shown)} more")
    view.add(grid, "in images", ", ".join(shown) or "none that are known")
    runs = detail.runs
    if runs:
        for title, run in (("first run", runs[0]), ("last run", runs[-1])):
            # an import is a run of no machine
            view.add(grid, title, f"{run.run_id} of {run.machine}" if run.machine else run.run_id)
    for area in detail.dead[:_IMAGES]:
        place = f"{area.offset:#x}, {area.size} bytes: {area.reason}, {area.changes} times"
        view.add(grid, "dead place", place)
    if len(detail.dead) > _IMAGES:
        view.add(grid, "", f"and {len(detail.dead) - _IMAGES} more")
    view.console().print(grid)


def _print_lines(detail: ModuleDetail) -> None:
    table = view.grid(2, 3, "engine", "arch", "blocks", "bytes", "dead")
    for line in detail.lines:
        numbers = (f"{line.blocks:,}", view.size(line.bytes), f"{line.dead:,}")
        view.add(table, line.fingerprint[:8], line.arch, *numbers)
    typer.echo()
    view.console().print(table)


def _print_picture(detail: ModuleDetail, table: SymbolTable | None) -> None:
    """The heat map: each line a region, with the function that has most blocks there."""
    from collections import Counter

    import numpy as np

    from sysqcache.cli import cachemap

    offsets = detail.columns.offset.astype(np.int64)
    sizes = np.maximum(detail.columns.size.astype(np.int64), 1)
    found = cachemap.regions(offsets, sizes, detail.columns.uses.astype(np.int64))

    def best(rows: slice) -> str:
        if table is None:
            return ""
        names = Counter(table.find(offset)[0] for offset in offsets[rows].tolist())
        names.pop("", None)
        return view.shorten(names.most_common(1)[0][0], 20) if names else ""

    grid = view.grid(2, 2, "offset", "kept", "", "blocks")
    grid.add_column("most in", no_wrap=True)
    for row in cachemap.rows(found, best):
        grid.add_row(*row)
    typer.echo()
    view.console().print(grid)
    if found:
        cell = found[0].size // cachemap.CELLS
        typer.echo(
            f"A cell is {view.size(cell)}; the darker, the more of its bytes are in kept blocks; "
            "green: used by several runs."
        )


def _print_functions(detail: ModuleDetail, table: SymbolTable | None) -> None:
    found = functions(detail, table)
    if not found:
        return
    grid = view.grid(1, 4, "function", "offset", "blocks", "bytes", "uses")
    for one in found[:_FUNCTIONS]:
        numbers = (f"{one['blocks']:,}", view.size(one["bytes"]), f"{one['uses']:,}")
        view.add(grid, view.shorten(one["name"], 50), f"{one['offset']:#x}", *numbers)
    typer.echo()
    view.console().print(grid)
    if len(found) > _FUNCTIONS:
        typer.echo(f"and {len(found) - _FUNCTIONS:,} more functions")
