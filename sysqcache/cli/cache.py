# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache cache`: look at the block store, check it, repair it, shrink it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from sysqcache.cli import cachebundle, cachelist, cacheshow, cachewhy
from sysqcache.cli import cacheview as view
from sysqcache.cli.options import Json, print_json, reflow

if TYPE_CHECKING:
    from sysqcache.store.verify import VerifyReport

app = typer.Typer(
    help="Look at the block store, check it, repair it, carry it elsewhere.", no_args_is_help=True
)


def _register(name: str, command: Callable[..., None]) -> None:
    """A command of another module."""
    app.command(name, help=reflow(command.__doc__ or ""))(command)


_register("list", cachelist.list_)
_register("show", cacheshow.show)
_register("why", cachewhy.why)
_register("export", cachebundle.export)
_register("import", cachebundle.import_)


@app.command()
def verify(as_json: Json = False) -> None:
    """Read every block and check it; exit code 24 when something is damaged."""
    from dataclasses import asdict

    from sysqcache.base.errors import VerifyFailed

    store = view.open_store()
    with view.Bar("checking packs") as bar:
        report = store.verify(bar.update)
    if as_json:
        values = {"good": report.good, "blocks": report.blocks, **asdict(report)}
        print_json(values)
    else:
        typer.echo(
            f"{report.blocks:,} blocks in {len(report.packs) - report.outdated} packs checked "
            f"in {report.seconds:.1f} s"
        )
        _print_outdated(report.outdated)
    if not report.good:
        bad = sum(not p.good for p in report.packs)
        raise VerifyFailed(
            f"the store {store.layout.root} is damaged: "
            f"{bad} packs, {len(report.problems)} other problems",
            hint="`sysqcache cache rebuild` keeps what is intact",
            detail="\n".join(_problems(report)),
        )


def _print_outdated(packs: int) -> None:
    if packs:
        typer.echo(
            f"{view.many(packs, 'pack')} of an earlier format version, which no engine reads; "
            "`sysqcache cache compact` removes them"
        )


def _problems(report: VerifyReport) -> list[str]:
    lines = list(report.problems)
    for pack in report.packs:
        if pack.good:
            continue
        lines.append(
            f"pack {pack.sha256[:12]}: {pack.damaged} of {pack.blocks} blocks damaged, "
            f"{pack.unfindable} not found through the index"
            + (f"; {pack.problem}" if pack.problem else "")
        )
    return lines


@app.command()
def rebuild(as_json: Json = False) -> None:
    """Make the metadata anew from the packs; damaged files are moved to `damaged/`."""
    from dataclasses import asdict

    store = view.open_store()
    with view.Bar("reading packs") as bar:
        report = store.rebuild(bar.update)
    if as_json:
        print_json(asdict(report))
        return
    typer.echo(
        f"{report.packs} packs with {report.blocks:,} blocks are in use, "
        f"{report.superseded} are superseded ({report.seconds:.1f} s)"
    )
    _print_outdated(report.outdated)
    for refused in report.refused:
        typer.echo(f"left as it is: {refused}")
    if report.moved:
        typer.echo(
            f"{report.salvaged:,} blocks of damaged packs were kept, {report.lost:,} are lost; "
            "damaged files are now:"
        )
    for path in report.moved:
        typer.echo(f"  {path}")


@app.command()
def compact(
    max_bytes: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Remove the least recently used packs above this size too: bytes, or 2GiB.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Remove packs that newer ones replace or no engine reads, and give the space back."""
    from dataclasses import asdict

    limit = None if max_bytes is None else view.parse_size(max_bytes)
    store = view.open_store()
    report = store.compact(limit)
    view.warn(store)
    if as_json:
        print_json(asdict(report))
    elif report.in_use:
        typer.echo("A machine uses the packs: nothing was removed. Stop it, then try again.")
    else:
        typer.echo(
            f"{report.removed} packs removed, {view.size(report.bytes_freed)} freed, "
            f"{view.size(report.bytes_left)} left"
        )
