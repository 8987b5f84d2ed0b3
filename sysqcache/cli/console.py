# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache console`: attach to a machine's serial console."""

from __future__ import annotations

import contextlib

import typer

from sysqcache.cli.loglines import note
from sysqcache.cli.options import MachineName

app = typer.Typer()


@app.command()
def console(name: MachineName) -> None:
    """Attach this terminal to the serial console; Ctrl-] leaves, the machine goes on."""
    from sysqcache.base import paths
    from sysqcache.base.errors import QmpError
    from sysqcache.machine.guest.console import attach
    from sysqcache.machine.instances import Instance
    from sysqcache.machine.running import Machine, serial_log
    from sysqcache.saved import killed

    instance = Instance(name)
    state = instance.require_running()
    with contextlib.suppress(QmpError), Machine.attach(name, quick=True) as machine:
        if (still := killed.go_on(machine, patience=0.0)) is not None:
            note(f"warning: {still.text} ({still.hint})")
    left = attach(instance.file(paths.INSTANCE_SERIAL), serial_log(instance, state))
    note("")
    note(f"left the console of {name}" if left else f"{name} has ended")
