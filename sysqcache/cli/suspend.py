# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache suspend`: save a whole running machine and end its QEMU."""

from __future__ import annotations

from typing import Annotated

import typer

from sysqcache.cli.loglines import note
from sysqcache.cli.options import Json, MachineName, print_json, say

app = typer.Typer()

_METHODS = ("auto", "internal", "file", "template")


@app.command()
def suspend(
    name: MachineName,
    method: Annotated[
        str,
        typer.Option("--method", metavar="|".join(_METHODS), help="How to save it."),
    ] = "auto",
    as_json: Json = False,
) -> None:
    """Save a running machine, memory, devices and disks, and end its QEMU.

    internal keeps everything inside the qcow2 disk, as savevm does; file writes the memory
    into a file that a resume reads; template writes the same file, and every resume maps it
    and gets fresh overlays, so that resuming takes the same time whatever the memory's size
    and many copies can run. auto takes template where it can, else file, and says why.
    """
    from sysqcache.base.errors import UsageError
    from sysqcache.base.interrupts import handle_signals
    from sysqcache.cli.liveline import Phases
    from sysqcache.cli.sweeping import sweep
    from sysqcache.saved import suspend as suspending

    if method not in _METHODS:
        raise UsageError(f"--method takes {', '.join(_METHODS)}; found {method!r}")
    handle_signals()
    with Phases() as phases:
        done = suspending.suspend(name, method, lambda text: note(f"warning: {text}"), phases)
    sweep()
    if as_json:
        print_json(done.to_json())
        return
    size = done.record.disk_bytes / (1 << 20)
    say(
        f"{name} is saved ({done.record.method}: {done.record.why}), "
        f"{size:,.0f} MiB in {done.suspend_s:.2f} s; sysqcache resume {name} lets it go on"
    )
