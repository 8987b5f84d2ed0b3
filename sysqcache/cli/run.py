# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache run`: a command in a machine of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from sysqcache.base.errors import UsageError
from sysqcache.cli.loglines import note
from sysqcache.cli.options import Sets
from sysqcache.run.words import POLICIES, Asked, is_plain

app = typer.Typer()


@app.command()
def run(
    source: Annotated[str, typer.Argument(metavar="VM.yaml|IMAGE", help="What the machine is.")],
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- CMD...", help="One word: a shell command line. None: a shell."),
    ] = None,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="Give the command a terminal.")] = False,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", "-e", metavar="NAME[=VALUE]", help="A variable; alone: as here."),
    ] = None,
    workdir: Annotated[
        str, typer.Option("--workdir", "-w", metavar="DIR", help="Where to run it.")
    ] = "",
    user: Annotated[str, typer.Option("--user", "-u", metavar="USER", help="Who runs it.")] = "",
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="End it after this: exit 124.")
    ] = 0.0,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="What to call the machine.")
    ] = "",
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Print the machine's name and leave it running.")
    ] = False,
    copies: Annotated[
        int, typer.Option("--copies", metavar="N", help="Run it in N machines at once.")
    ] = 0,
    vcpus: Annotated[
        int,
        typer.Option("--vcpus", metavar="N", help="Other than vm.yaml's; a template of its own."),
    ] = 0,
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="Likewise, as in 2GiB.")
    ] = "",
    sets: Sets = None,
    template: Annotated[
        str,
        typer.Option("--template", metavar="|".join(POLICIES), help="When to make a template."),
    ] = "auto",
) -> None:
    """Run a command in a fresh machine that is gone when it has ended, with its exit status.

    The first run boots the machine and keeps it as a template, as it was when it was ready;
    the next ones go on from there. The template is made anew when the image, vm.yaml or the
    engine have changed.
    """
    from sysqcache.base.interrupts import handle_signals
    from sysqcache.cli.bootview import BootView
    from sysqcache.run import session

    asked = Asked(
        source, tuple(command or ()), tuple(env or ()), workdir, user, name, timeout,
        copies, template, tuple(sets or ()), vcpus, memory, tty, detach,
    )  # fmt: skip
    if template not in POLICIES:
        raise UsageError(f"--template takes {', '.join(POLICIES)}; found {template!r}")
    if not is_plain(asked):
        raise UsageError("--copies takes a number from 1, and neither --tty nor --detach")
    handle_signals()
    raise typer.Exit(session.run(asked, BootView, note))
