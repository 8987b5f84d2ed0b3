# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache logs`: a machine's serial output, or QEMU's messages."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from sysqcache.cli.options import MachineName

app = typer.Typer()


@app.command()
def logs(
    name: MachineName,
    qemu: Annotated[bool, typer.Option("--qemu", help="QEMU's own messages instead.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", help="Only the last lines.", min=1)
    ] = None,
) -> None:
    """Print the serial output of a machine's last run."""
    from sysqcache.base import paths
    from sysqcache.machine.instances import Instance
    from sysqcache.machine.running import serial_log

    instance = Instance(name)
    state = instance.read()
    log = instance.file(paths.INSTANCE_QEMU_LOG) if qemu else serial_log(instance, state)
    offset = _print(log, lines=lines)
    while follow and instance.is_held():
        time.sleep(0.1)
        offset = _print(log, offset)


def _print(log: Path, offset: int = 0, lines: int | None = None) -> int:
    """What is behind ``offset``, or the last lines of it; where it ended."""
    try:
        with log.open("rb") as stream:
            stream.seek(offset)
            data = stream.read()
    except FileNotFoundError:
        return offset
    shown = data if lines is None else b"".join(data.splitlines(keepends=True)[-lines:])
    sys.stdout.buffer.write(shown)
    sys.stdout.buffer.flush()
    return offset + len(data)
