# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache resume`: let a saved machine go on, or many copies of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sysqcache.cli.loglines import note
from sysqcache.cli.options import (
    CacheOption,
    Json,
    MachineName,
    TaskTimeout,
    print_json,
    print_output,
)

if TYPE_CHECKING:
    from sysqcache.machine.report import BootReport

app = typer.Typer()


@app.command()
def resume(
    name: MachineName,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            metavar="CMD",
            help="Run this once the guest answers; repeatable, its status is in the report.",
        ),
    ] = None,
    copies: Annotated[
        int, typer.Option("--copies", metavar="N", help="Start N machines NAME-1, NAME-2, ...")
    ] = 0,
    cache: CacheOption = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave it running even after tasks.")
    ] = False,
    timeout: TaskTimeout = 3600.0,
    as_json: Json = False,
) -> None:
    """Let a saved machine go on where it was; it stays saved and can be resumed again.

    Without --task the machine is left running; with it, it ends when the tasks are done,
    unless --detach is given. --copies starts several machines from one template, each with
    its own overlays, host ports, MAC address and host name.
    """
    from sysqcache.base import interrupts
    from sysqcache.cli.bootview import BootView, note_outcome
    from sysqcache.saved import resume as resuming

    tasks = tuple(task or ())
    options = resuming.ResumeOptions(tasks, detach or not tasks, cache, timeout)
    interrupts.handle_signals()
    with interrupts.until_told():
        if copies:
            reports = resuming.resume_copies(name, copies, options)
        else:
            with BootView() as view:
                reports = [resuming.resume(name, options, view)]
        if as_json:
            values = [report.to_json() for report in reports]
            print_json(values if copies else values[0])
        else:
            for report in reports:
                _show(report)
        note_outcome(*reports)


def _show(report: BootReport) -> None:
    for result in report.times.tasks:
        print_output(result)
    ready = report.times.ready_s or 0.0
    note(f"{report.machine} went on after {ready:.3f} s ({report.start})")
