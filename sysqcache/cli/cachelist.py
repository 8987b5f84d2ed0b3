# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache cache list`: what the store holds, by module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from sysqcache.cli import cacheview as view
from sysqcache.cli.options import Json, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from sysqcache.store.facade import Store
    from sysqcache.store.records import ModuleLine
    from sysqcache.store.summary import StoreStats

LARGEST: Final = 40
"""Modules that are listed without --all."""

_NAME: Final = 40
_EMPTY: Final = """The store is empty.
Run `sysqcache boot configs/debian12-x86_64.yaml`: what the machine translates is kept
when it ends, and the next start adopts it."""


def list_(
    kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Only modules of this kind, such as file or kernel."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every module, not the 40 largest.")] = False,
    as_json: Json = False,
) -> None:
    """List what the store keeps: modules, blocks, bytes.

    A module is a file of the guest, a kernel, a kernel module or firmware; it has a line
    for each engine and CPU (fingerprint) that it was translated by. `cache show` tells
    more of one.
    """
    from dataclasses import asdict

    store = view.open_store()
    modules, stats = store.list_modules(), store.stats()
    view.warn(store)
    if kind is not None:
        modules = _of_kind(modules, kind)
    if as_json:
        rows = [asdict(module) for module in modules]
        print_json({"modules": rows, "bytes": stats.bytes, "store": asdict(stats)})
        return
    if not stats.blocks:
        typer.echo(_EMPTY)
    elif not modules:
        typer.echo(f"No module of kind {kind} has blocks.")
    else:
        _print(modules, modules if all_ else modules[:LARGEST])
    _print_stats(store, stats)


def _of_kind(modules: list[ModuleLine], kind: str) -> list[ModuleLine]:
    from sysqcache.base.errors import UsageError
    from sysqcache.formats.modules import KINDS

    if kind not in [str(known) for known in KINDS]:
        raise UsageError(f"there is no kind {kind!r} of modules", hint=f"one of {', '.join(KINDS)}")
    return [module for module in modules if module.kind == kind]


def _print(modules: list[ModuleLine], shown: list[ModuleLine]) -> None:
    """The shown modules by kind, the kind with most blocks first, then what was left out."""
    engines = {m.fingerprint: m.arch for m in modules}
    several = len(engines) > 1
    titles = ("module", "id", *(["engine"] if several else []))
    table = view.grid(len(titles), 5, *titles, *("blocks", "bytes", "dead", "images", "last used"))
    kinds: dict[str, list[ModuleLine]] = {}
    for module in modules:
        kinds.setdefault(module.kind, []).append(module)
    for kind, found in sorted(kinds.items(), key=lambda k: -sum(m.blocks for m in k[1])):
        of_kind = [module for module in shown if module.kind == kind]
        if of_kind:
            _add_heading(table, kind, found, several)
        for module in of_kind:
            _add_line(table, module, several)
    view.console().print(table)
    _print_rest(modules, shown)
    for fingerprint, arch in engines.items():
        typer.echo(f"engine {fingerprint[:8]}: {arch}")


def _add_heading(table: Table, kind: str, found: list[ModuleLine], several: bool) -> None:
    cells = [f"{kind}: {view.many(len({m.id for m in found}), 'module')}", ""]
    blocks, total = sum(m.blocks for m in found), sum(m.bytes for m in found)
    numbers = [f"{blocks:,}", view.size(total), "", "", ""]
    view.add(table, *cells, *([""] if several else []), *numbers, style="bold")


def _add_line(table: Table, module: ModuleLine, several: bool) -> None:
    cells = ["  " + view.label(module.name, module.id, _NAME - 10 * several)]
    cells.append(view.short_id(module.id))
    if several:
        cells.append(module.fingerprint[:8])
    dead = f"{module.dead:,}" if module.dead else ""
    images = str(module.images) if module.images else ""
    used = view.moment(module.last_used)[5:]
    view.add(table, *cells, f"{module.blocks:,}", view.size(module.bytes), dead, images, used)


def _print_rest(modules: list[ModuleLine], shown: list[ModuleLine]) -> None:
    rest = modules[len(shown) :]
    if rest:
        blocks, total = sum(m.blocks for m in rest), sum(m.bytes for m in rest)
        typer.echo(
            f"and {view.many(len(rest), 'smaller module')} with {view.many(blocks, 'block')}, "
            f"{view.size(total)}: --all lists them, --kind KIND those of one kind."
        )


def _print_stats(store: Store, stats: StoreStats) -> None:
    from sysqcache.formats.block import left_out_words

    if stats.blocks:
        typer.echo(
            f"{view.many(stats.blocks, 'block')} in {view.many(stats.packs, 'pack')}, "
            f"{view.size(stats.bytes)} on disk in {store.layout.root}"
        )
    if stats.left_out:
        typer.echo(f"{left_out_words(stats.left_out)}.")
    if stats.superseded:
        are = "is" if stats.superseded == 1 else "are"
        typer.echo(
            f"{view.many(stats.superseded, 'pack')} {are} superseded; "
            "`sysqcache cache compact` removes what newer packs replace."
        )
    if stats.outdated or stats.outdated_journals:
        found = [(stats.outdated, "pack"), (stats.outdated_journals, "journal")]
        what = " and ".join(view.many(count, one) for count, one in found if count)
        are = "is" if stats.outdated + stats.outdated_journals == 1 else "are"
        typer.echo(
            f"{what} {are} of an earlier format version, which no engine reads; "
            "`sysqcache cache compact` removes them."
        )
    if stats.journals:
        are = "is" if stats.journals == 1 else "are"
        typer.echo(
            f"{view.many(stats.journals, 'journal')} {are} not in packs yet "
            f"({view.size(stats.journal_bytes)})."
        )
