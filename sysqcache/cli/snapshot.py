# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache snapshot`: points inside the qcow2 disks of a machine to go back to."""

from __future__ import annotations

from typing import Annotated

import typer

from sysqcache.cli.loglines import note
from sysqcache.cli.options import Json, MachineName, print_json, say

app = typer.Typer(
    help="Save points of a running machine inside its disks, and go back to them.",
    no_args_is_help=True,
)

_Tag = Annotated[str, typer.Argument(metavar="TAG", help="Name of the snapshot.")]


@app.command()
def save(name: MachineName, tag: _Tag = "snapshot", as_json: Json = False) -> None:
    """Save the running machine as it is now; it runs on."""
    from sysqcache.base.interrupts import handle_signals
    from sysqcache.saved import snapshots

    handle_signals()
    seconds = snapshots.save(name, tag)
    if as_json:
        print_json({"machine": name, "tag": tag, "seconds": round(seconds, 4)})
    else:
        say(f"{name} is saved as {tag} in {seconds:.2f} s; sysqcache snapshot load {name} {tag}")


@app.command()
def load(
    name: MachineName,
    tag: _Tag = "snapshot",
    unchecked: Annotated[
        bool,
        typer.Option("--unchecked", help="Also if nobody knows which machine it was saved of."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Take the running machine back to a snapshot.

    A snapshot that sysqcache did not save, or saved elsewhere, needs --unchecked.
    """
    from sysqcache.base.interrupts import handle_signals
    from sysqcache.saved import snapshots

    handle_signals()
    seconds = snapshots.load(name, tag, unchecked=unchecked)
    if as_json:
        print_json({"machine": name, "tag": tag, "seconds": round(seconds, 4)})
    else:
        say(f"{name} is back at {tag} ({seconds:.2f} s)")


@app.command("list")
def list_(name: MachineName, as_json: Json = False) -> None:
    """List the snapshots of a machine, and the saved machine if there is one."""
    from sysqcache.saved import snapshots

    found = snapshots.list_all(name)
    if as_json:
        print_json(found)
        return
    for one in found["snapshots"]:
        say(f"{one['tag']:<24} {one['date']}  {one['vm_state_bytes'] / (1 << 20):,.0f} MiB")
    if found["saved"]:
        saved = found["saved"]
        say(f"suspended ({saved['method']}) {saved['date']}, {saved['disk_bytes'] >> 20:,} MiB")
    if not found["snapshots"] and not found["saved"]:
        note(f"{name} has no snapshots")


@app.command()
def delete(
    name: MachineName,
    tag: Annotated[
        str, typer.Argument(metavar="[TAG]", help="Name; without it, the suspended machine.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Delete a snapshot, or without TAG what suspend saved."""
    from sysqcache.base.interrupts import handle_signals
    from sysqcache.saved import snapshots

    handle_signals()
    snapshots.delete(name, tag)
    if as_json:
        print_json({"machine": name, "tag": tag, "deleted": True})
    else:
        say(f"{tag or 'the saved machine'} of {name} is deleted")
