# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache exec`: run a command in the guest."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from sysqcache.cli.options import Json, MachineName, TaskTimeout, print_json, print_output

app = typer.Typer()


@app.command(context_settings={"ignore_unknown_options": True})
def exec_(
    name: MachineName,
    command: Annotated[
        list[str], typer.Argument(metavar="-- CMD...", help="One word: a shell command line.")
    ],
    timeout: TaskTimeout = 3600.0,
    as_json: Json = False,
) -> None:
    """Run a command in the guest; ends with the command's own exit status."""
    from sysqcache.machine.instances import Instance
    from sysqcache.machine.shell import run_in_guest
    from sysqcache.machine.watch import Watch

    instance = Instance(name)
    _let_run(name)
    state = instance.require_running()
    line = command[0] if len(command) == 1 else shlex.join(command)
    with Watch.over(instance, state) as watch:
        result = run_in_guest(instance, state, watch, line, timeout)
    if as_json:
        print_json(result.to_json())
    else:
        print_output(result)
    raise typer.Exit(result.exit)


def _let_run(name: str) -> None:
    """A guest that a killed command left standing runs on. Raises when it does not run.

    Nothing is known of a machine whose QMP sockets are both in use.
    """
    from sysqcache.base.errors import QmpError
    from sysqcache.machine.running import Machine
    from sysqcache.saved import killed

    try:
        machine = Machine.attach(name, quick=True)
    except QmpError:
        return
    with machine:
        if (still := killed.go_on(machine)) is not None:
            raise still.error()
