# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache ssh`: the user's own ssh, into a running machine."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from sysqcache.base.errors import SetupError
from sysqcache.cli.options import MachineName

app = typer.Typer()


@app.command(context_settings={"ignore_unknown_options": True})
def ssh(
    name: MachineName,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="-- CMD...", help="What to run; default: a shell.")
    ] = None,
    user: Annotated[str, typer.Option("--user", "-u", metavar="USER", help="Log in as.")] = "root",
) -> None:
    """Log into a running machine with ssh, by a key that is put into it; ends as ssh does.

    The guest needs sshd, and an agent or a serial shell by which it is told the key.
    sysqcache status NAME --ssh-config prints what ssh, rsync and editors need.
    """
    from sysqcache.run.ssh import way_into

    command = way_into(name, user).command(words or [])
    try:
        os.execvp(command[0], command)  # noqa: S606 - the user asks for it
    except OSError as error:
        raise SetupError(
            f"ssh can't be started: {error.strerror}", hint="install openssh-client"
        ) from None
