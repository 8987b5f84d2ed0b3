# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache status`: one machine."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from sysqcache.cli.options import Json, MachineName, print_json, say

app = typer.Typer()


@app.command()
def status(
    name: MachineName,
    ssh_config: Annotated[
        bool, typer.Option("--ssh-config", help="Print what ssh needs to log in; lets it in.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show one machine: its state, forwarded ports and cache counters."""
    if ssh_config:
        from sysqcache.run.ssh import way_into

        sys.stdout.write(way_into(name).config())
        return
    from sysqcache.cli.list import row
    from sysqcache.machine.instances import Instance

    state = Instance(name).current()
    answer = row(state) | {
        "cache_reason": state.cache_reason,
        "directory": str(Instance(name).directory),
        "blocks": None,
    }
    if state.live and state.process.alive():
        answer |= _live(name)
    if as_json:
        print_json(answer)
        return
    blocks = answer.pop("blocks")
    for key, value in answer.items():
        if value not in (None, "", []):
            say(f"{key:<12} {_text(value)}")
    if blocks:
        say(
            f"{'blocks':<12} requested {blocks['requested']:,}, adopted {blocks['adopted']:,}, "
            f"hit rate {blocks['hit_rate']:.1%}"
        )


def _live(name: str) -> dict[str, Any]:
    from sysqcache.base.errors import MachineError
    from sysqcache.machine.report import blocks_json
    from sysqcache.machine.running import Machine
    from sysqcache.qmp.commands import query_status

    try:
        with Machine.attach(name) as machine:
            stats, still = machine.stats(), machine.standstill()
            return {
                "qemu_state": query_status(machine.qmp).state,
                "stands_still": f"{still.why} ({still.hint})" if still else None,
                "host_cpu_s": round(machine.process.cpu_seconds(), 2),
                "blocks": None if stats is None else blocks_json(stats),
            }
    except MachineError as error:
        return {"error": error.message}


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(f"{f['protocol']} {f['address']}:{f['host']}->{f['guest']}" for f in value)
    return str(value)
