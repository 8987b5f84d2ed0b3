# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache cache export` and `import`: blocks for another machine, or for a CI cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sysqcache.cli import cacheview as view
from sysqcache.cli.options import Json, print_json


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Written anew; .zst packs it.")],
    module: Annotated[
        list[str] | None,
        typer.Option(
            "--module",
            metavar="MODULE",
            help="Only blocks of this module, named as for `cache show`; may be repeated.",
        ),
    ] = None,
    fingerprint: Annotated[
        str,
        typer.Option(metavar="F", help="Only blocks of this engine and CPU: its first characters."),
    ] = "",
    as_json: Json = False,
) -> None:
    """Write kept blocks with all that is known of them into one file.

    Another store takes them in with `cache import`, so that its machines start warm: those
    with the same engine and CPU, of whatever image. The file holds code of the guests that
    ran here; keep it as confidential as they are.
    """
    from dataclasses import asdict

    store = view.open_store()
    with view.Bar("writing blocks") as bar:
        report = store.export(file, module or (), fingerprint, bar.update)
    view.warn(store)
    if as_json:
        print_json({"file": str(file), **asdict(report)})
        return
    typer.echo(
        f"{view.many(report.blocks, 'block')} of {view.many(report.modules, 'module')} in "
        f"{view.many(report.packs, 'pack')}, {view.size(report.file_bytes)}: {file}"
    )


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `cache export` wrote.")],
    as_json: Json = False,
) -> None:
    """Take in blocks that `cache export` wrote. Machines will run this code on the host:
    import files of people alone whose programs you would run.

    Every size and checksum is checked, so damage is found; intent can't be. Blocks that
    the store has are left out: importing twice changes nothing.
    """
    from dataclasses import asdict

    store = view.open_store()
    with view.Bar("reading the bundle") as bar:
        result = store.import_bundle(file, bar.update)
    view.warn(store)
    if as_json:
        values = {**asdict(result), "packs": [path.stem for path in result.packs]}
        print_json({"file": str(file), **values})
        return
    typer.echo(
        f"{result.blocks_new:,} blocks are new, {result.blocks_known:,} were kept already"
        + (f", {result.blocks_dead:,} rewrite themselves" if result.blocks_dead else "")
        + (f", {result.crowded:,} were left out as crowded" if result.crowded else "")
    )
    if result.modules_new or result.images_new:
        typer.echo(
            f"{view.many(result.modules_new, 'module')} and "
            f"{view.many(result.images_new, 'image')} were unknown before"
        )
