# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache cp`: files into a running machine and out of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sysqcache.base.errors import UsageError

if TYPE_CHECKING:
    from sysqcache.machine.guest.agent import GuestAgent

app = typer.Typer()


@app.command()
def cp(
    source: Annotated[str, typer.Argument(metavar="SRC", help="PATH, or NAME:PATH in a machine.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="The other one of these.")],
) -> None:
    """Copy a file or a folder into a running machine, or out of it, through its agent.

    An existing folder as DST gets SRC into it, as with cp. In the guest all belongs to root.
    """
    from sysqcache.run import files

    inside, outside = _machine(source), _machine(target)
    if bool(inside) == bool(outside):
        raise UsageError("one of SRC and DST is NAME:PATH, the other one a path of this host")
    if inside:
        with _agent(inside[0]) as agent:
            files.copy_out(agent, inside[1], Path(target))
    elif outside:
        with _agent(outside[0]) as agent:
            files.copy_in(agent, Path(source), outside[1])


def _machine(written: str) -> tuple[str, str] | None:
    """Name and path of ``NAME:PATH``; None for a path of this host, which ./ makes of any."""
    name, colon, path = written.partition(":")
    return (name, path or ".") if colon and "/" not in name else None


@contextlib.contextmanager
def _agent(name: str) -> Iterator[GuestAgent]:
    from sysqcache.base.errors import GuestCommandError
    from sysqcache.machine.guest.agent import GuestAgent
    from sysqcache.machine.instances import Instance
    from sysqcache.machine.shell import open_shell

    instance = Instance(name)
    with contextlib.closing(open_shell(instance, instance.require_running())) as shell:
        if not isinstance(shell, GuestAgent):
            raise GuestCommandError(
                f"{name} has no agent to copy with", hint="sysqcache status NAME --ssh-config, scp"
            )
        if not shell.sync(30.0):
            raise GuestCommandError("the guest agent does not answer")
        yield shell
