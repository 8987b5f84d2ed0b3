# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache cache`: look at the block store, check it, repair it, shrink it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sysqcache.store.facade import Store
    from sysqcache.store.verify import VerifyReport

app = typer.Typer(help="Look at the block store, check it, repair it.", no_args_is_help=True)

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]

_EMPTY = """The store is empty.
Run `sysqcache boot configs/debian12-x86_64.yaml`: what the machine translates is kept
when it ends, and the next start adopts it."""


@app.command("list")
def list_(as_json: _Json = False) -> None:
    """List what the store keeps: modules, blocks, bytes."""
    from dataclasses import asdict

    store = _open()
    modules, stats = store.list_modules(), store.stats()
    _warn(store)
    if as_json:
        rows = [asdict(module) for module in modules]
        typer.echo(json.dumps({"modules": rows, "bytes": stats.bytes, "store": asdict(stats)}))
        return
    if not modules:
        typer.echo(_EMPTY)
    else:
        _print_table(modules)
        typer.echo(
            f"{stats.blocks:,} blocks in {stats.packs} packs, {_size(stats.bytes)} on disk "
            f"in {store.layout.root}"
        )
    if stats.superseded:
        typer.echo(
            f"{stats.superseded} packs are superseded; `sysqcache cache compact` removes them."
        )
    if stats.journals:
        typer.echo(
            f"{stats.journals} journals are not in packs yet ({_size(stats.journal_bytes)})."
        )


@app.command()
def verify(as_json: _Json = False) -> None:
    """Read every block and check it; exit code 24 when something is damaged."""
    from dataclasses import asdict

    from sysqcache.errors import VerifyFailed

    store = _open()
    with _Bar("checking packs") as bar:
        report = store.verify(bar.update)
    if as_json:
        values = {"good": report.good, "blocks": report.blocks, **asdict(report)}
        typer.echo(json.dumps(values))
    else:
        typer.echo(
            f"{report.blocks:,} blocks in {len(report.packs)} packs checked "
            f"in {report.seconds:.1f} s"
        )
    if not report.good:
        bad = sum(not p.good for p in report.packs)
        raise VerifyFailed(
            f"the store {store.layout.root} is damaged: "
            f"{bad} packs, {len(report.problems)} other problems",
            hint="`sysqcache cache rebuild` keeps what is intact",
            detail="\n".join(_problems(report)),
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
def rebuild(as_json: _Json = False) -> None:
    """Make the metadata anew from the packs; damaged files are moved to `damaged/`."""
    from dataclasses import asdict

    store = _open()
    with _Bar("reading packs") as bar:
        report = store.rebuild(bar.update)
    if as_json:
        typer.echo(json.dumps(asdict(report)))
        return
    typer.echo(
        f"{report.packs} packs with {report.blocks:,} blocks are in use, "
        f"{report.superseded} are superseded ({report.seconds:.1f} s)"
    )
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
    as_json: _Json = False,
) -> None:
    """Remove packs that newer ones replace, and give the space back."""
    from dataclasses import asdict

    limit = None if max_bytes is None else _parse_size(max_bytes)
    store = _open()
    report = store.compact(limit)
    _warn(store)
    if as_json:
        typer.echo(json.dumps(asdict(report)))
    elif report.in_use:
        typer.echo("A machine uses the packs: nothing was removed. Stop it, then try again.")
    else:
        typer.echo(
            f"{report.removed} packs removed, {_size(report.bytes_freed)} freed, "
            f"{_size(report.bytes_left)} left"
        )


def _open() -> Store:
    from sysqcache.paths import store_dir
    from sysqcache.store.facade import Store

    return Store.open(store_dir())


def _warn(store: Store) -> None:
    for line in store.warnings:
        typer.echo(f"warning: {line}", err=True)


def _parse_size(text: str) -> int:
    import re

    from sysqcache.errors import UsageError

    match = re.fullmatch(r"\s*(\d{1,18})\s*([KMGT]iB|B)?\s*", text)
    if match is None:
        raise UsageError(
            f"{text!r} is not a size", hint="write bytes as a number, or such as 512MiB or 2GiB"
        )
    unit = (match[2] or "B")[0]
    return int(match[1]) << (10 * "BKMGT".index(unit))


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def _print_table(modules: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("module", "kind", "arch", "engine"):
        table.add_column(name)
    for name in ("blocks", "bytes"):
        table.add_column(name, justify="right")
    table.add_column("last used")
    for m in modules:
        used = m.last_used[:19].replace("T", " ")
        row = (m.name, m.kind, m.arch, m.fingerprint[:8], f"{m.blocks:,}", _size(m.bytes), used)
        table.add_row(*row)
    Console().print(table)


class _Bar:
    """A progress bar with elapsed time on stderr, shown once work takes longer than 2 s."""

    def __init__(self, title: str) -> None:
        import time

        self._title, self._clock = title, time.monotonic
        self._started = self._clock()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, total: int) -> None:
        """So many bytes are done; starts the bar when it is time."""
        if self._bar is None:
            if self._clock() - self._started < 2 or done >= total:
                return
            self._start()
        self._bar.update(self._task, completed=done, total=total)

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(True))
        self._bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
        self._task = self._bar.add_task(self._title)
        self._bar.start()
