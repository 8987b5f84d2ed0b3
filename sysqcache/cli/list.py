# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache list`: running and ended machines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import typer

from sysqcache.cli.options import Json, print_json, say

if TYPE_CHECKING:
    from sysqcache.machine.instances import InstanceState

app = typer.Typer()


@app.command("list")
def list_machines(as_json: Json = False) -> None:
    """List running and ended machines; a broken one with its error."""
    from sysqcache.cli.sweeping import sweep
    from sysqcache.machine.instances import list_instances

    sweep()
    states = list_instances()
    if as_json:
        print_json({"machines": [row(state) for state in states]})
        return
    if not states:
        say("no machines yet; sysqcache boot VM.yaml starts one")
        return
    width = max(len(state.name) for state in states)
    for state in states:
        say(f"{state.name:<{width}}  {state.state:<8}  {_words(state)}".rstrip())


def row(state: InstanceState) -> dict[str, Any]:
    """One machine as JSON."""
    return {
        "name": state.name,
        "state": str(state.state),
        "arch": state.arch,
        "pid": state.pid if state.live else None,
        "started": _iso(state.started),
        "ready_s": state.ready_s,
        "cache_mode": state.cache_mode,
        "forwards": list(state.forwards),
        "source": state.source,
        "error": state.error,
    }


def _iso(seconds: float) -> str | None:
    if not seconds:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _words(state: InstanceState) -> str:
    if state.error:
        return state.error
    parts = [state.arch, f"started {_iso(state.started)}", f"cache {state.cache_mode}"]
    if state.state == "running":
        parts.insert(1, f"pid {state.pid}")
        parts += [f"{f['address']}:{f['host']}->{f['guest']}" for f in state.forwards]
    return "  ".join(part for part in parts if part)
