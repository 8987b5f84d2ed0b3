# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache boot`: start a machine from its vm.yaml."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sysqcache.base import interrupts
from sysqcache.base.errors import UsageError
from sysqcache.cli.errors import debug_enabled
from sysqcache.cli.loglines import note
from sysqcache.cli.options import CacheOption, Json, Sets, TaskTimeout, print_json, print_output

if TYPE_CHECKING:
    from sysqcache.cli.bootview import BootView
    from sysqcache.machine.life import Until

app = typer.Typer()


@app.command()
def boot(
    file: Annotated[Path, typer.Argument(metavar="VM.yaml", help="What the machine is.")],
    until: Annotated[
        str,
        typer.Option(
            "--until", metavar="ready|exit", help="When to end: once ready, or by the guest."
        ),
    ] = "",
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            metavar="CMD",
            help="Run this when the guest is ready; repeatable, its status is in the report.",
        ),
    ] = None,
    cache: CacheOption = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave the machine running when it is ready.")
    ] = False,
    sets: Sets = None,
    timeout: TaskTimeout = 3600.0,
    as_json: Json = False,
) -> None:
    """Start a machine, run the tasks in it, report times and cache counters.

    Without --until and --detach it ends when the machine is ready and the tasks are done;
    on a terminal it stays on the serial console first (Ctrl-] leaves it). Ctrl-C asks the
    guest to power off, a second one kills it.
    """
    from sysqcache.cli.bootview import BootView, note_outcome, print_report
    from sysqcache.machine.life import BootOptions
    from sysqcache.machine.start import boot as start
    from sysqcache.spec import resolve

    overrides = [*(sets or []), *([f"cache.mode={cache}"] if cache else [])]
    spec = resolve.load(file, overrides)
    view = BootView(debug=debug_enabled())
    options = BootOptions(
        tasks=tuple(task or ()),
        until=_until(until, detach=detach, interactive=not (task or as_json)),
        detach=detach,
        task_timeout=timeout,
        console=lambda serial, log: _console(view, serial, log),
    )
    interrupts.handle_signals()
    with interrupts.until_told():
        with view:
            report = start(spec, options, view)
        if as_json:
            print_json(report.to_json())
        else:
            for result in report.times.tasks:
                print_output(result)
            print_report(report)
        note_outcome(report)


def _until(text: str, *, detach: bool, interactive: bool) -> Until:
    from sysqcache.machine.life import Until as When

    if text not in ("", "ready", "exit"):
        raise UsageError(f"--until takes ready or exit; found {text!r}")
    if detach and text == "exit":
        raise UsageError("--detach and --until exit exclude each other")
    if text or detach:
        return When(text or "ready")
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    return When.CONSOLE if interactive and terminal else When.READY


def _console(view: BootView, serial: Path, log: Path) -> None:
    from sysqcache.machine.guest import console

    view.pause(True)
    note("serial console; Ctrl-] leaves it and powers the machine off")
    console.attach(serial, log)
    note("")
    view.pause(False)
