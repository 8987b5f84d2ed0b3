# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache compare`: every way to start a machine, side by side."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sysqcache.base.errors import UsageError
from sysqcache.cli.loglines import note
from sysqcache.cli.options import DomainConnect, Json, Sets, TaskTimeout, print_json

app = typer.Typer()

_INTERRUPTED = 130
_FAILED = 1


@app.command()
def compare(
    file: Annotated[
        Path | None, typer.Argument(metavar="VM.yaml", help="What the machine is.")
    ] = None,
    task: Annotated[
        str, typer.Option("--task", metavar="CMD", help="What runs twice in each guest.")
    ] = "true",
    runs: Annotated[int, typer.Option("--runs", metavar="N", help="Rounds of all ways.")] = 5,
    ways: Annotated[
        str,
        typer.Option("--ways", metavar="A,B,...", help="Some of the ways; default: all."),
    ] = "",
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with charts.")
    ] = None,
    sets: Sets = None,
    timeout: TaskTimeout = 3600.0,
    domain: Annotated[
        str, typer.Option("--libvirt", metavar="DOMAIN", help="A domain instead of a vm.yaml.")
    ] = "",
    connect: DomainConnect = "",
    as_json: Json = False,
) -> None:
    """Measure every way to start a machine: cold and warm boots, resumes by each method.

    Ways: cold, warm, internal, internal+warm, file, file+warm, template, template+warm.
    cold and the resumes without +warm run with the cache off; the others use the blocks of
    one boot that is done first. Every round runs all ways, in another order each time.
    Nothing of the user's machines, disks, saved states and blocks is used or changed.

    With --libvirt a domain that has the cache: cold, warm, managedsave, managedsave+warm.
    """
    from sysqcache.base.interrupts import handle_signals
    from sysqcache.cli.compareview import CompareView, print_result
    from sysqcache.compare import runner
    from sysqcache.compare import ways as known
    from sysqcache.spec import resolve

    if not task.strip():
        raise UsageError("--task takes a command")
    if bool(domain) == (file is not None):
        raise UsageError("compare takes a VM.yaml, or --libvirt DOMAIN")
    if sets and domain:
        raise UsageError("--set changes a VM.yaml, not a domain: virsh edit does that")
    if connect and not domain:
        raise UsageError("--connect belongs to --libvirt DOMAIN")
    if html is not None:
        _check_writable(html)
    if domain or file is None:
        from sysqcache.compare.domains import DomainRequest, compare_domain

        wanted = known.named(ways, tuple(known.DomainWay))
        handle_signals()
        with CompareView() as view:
            result = compare_domain(
                DomainRequest(domain, connect, task, runs, wanted, timeout), view
            )
    else:
        spec = resolve.load(file, sets or [])
        asked = runner.Request(spec, known.named(ways, tuple(known.Way)), task, runs, timeout)
        handle_signals()
        with CompareView() as view:
            result = runner.compare(asked, view)
    if html is not None:
        from sysqcache.compare.page import page

        html.write_text(page(result), encoding="utf-8")
        note(f"charts and figures: {html}")
    if as_json:
        print_json(result.to_json())
    else:
        print_result(result)
    if result.interrupted:
        raise typer.Exit(_INTERRUPTED)
    if result.failed:
        raise typer.Exit(_FAILED)


def _check_writable(file: Path) -> None:
    """Better now than after an hour. Raises :class:`UsageError`."""
    target = file if file.exists() else file.absolute().parent
    if file.is_dir() or not os.access(target, os.W_OK):
        raise UsageError(f"--html can't be written: {file}")
