# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache map`: what the guest runs, seen from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sysqcache.cli.loglines import note
from sysqcache.cli.options import DomainConnect, Json, print_json, say

if TYPE_CHECKING:
    from sysqcache.guestmap.result import GuestMap

app = typer.Typer()


@app.command("map")
def map_machine(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the machine.", show_default=False)
    ] = "",
    domain: Annotated[
        str, typer.Option("--libvirt", metavar="DOMAIN", help="A domain that has the cache.")
    ] = "",
    connect: DomainConnect = "",
    as_json: Json = False,
) -> None:
    """Show what the guest runs: kernel, modules, processes, owners of pages.

    The guest is not asked for anything and needs no agent; it runs on meanwhile.
    """
    from sysqcache.base.errors import UsageError

    if bool(name) == bool(domain):
        raise UsageError("map takes the name of a machine, or --libvirt DOMAIN")
    if connect and not domain:
        raise UsageError("--connect belongs to --libvirt DOMAIN")
    found = _of_domain(domain, connect) if domain else _of_machine(name)
    if as_json:
        print_json(found.to_json())
        return
    if found.note:
        note(f"note: {found.note}")
    _show(found)


def _of_domain(name: str, uri: str) -> GuestMap:
    from sysqcache.libvirt.status import map_domain

    return map_domain(name, uri)


def _of_machine(name: str) -> GuestMap:
    from sysqcache.base import paths
    from sysqcache.guestmap import mapper
    from sysqcache.machine.instances import Instance

    instance = Instance(name)
    state = instance.require_running()
    socket = instance.file(paths.INSTANCE_QMP_INTROSPECT)
    return mapper.map_machine(socket, instance.watched(state))


def _show(found: GuestMap) -> None:
    kernel = found.kernel
    if kernel.release:
        start, end = kernel.text
        say(f"kernel     {kernel.release}, build id {kernel.build_id or 'unknown'}")
        say(f"           text {start:#x}-{end:#x}, KASLR offset {kernel.kaslr_offset:#x}")
    names = " ".join(module.name for module in found.modules)
    say(f"modules    {len(found.modules)}" + (f": {names}" if names else ""))
    users = [process for process in found.processes if process.maps]
    say(f"processes  {len(users)}, and {len(found.processes) - len(users)} kernel threads")
    for process in users:
        binaries = {one.path for one in process.maps if one.file and "x" in one.perms}
        count = f"{len(process.maps):>4} mappings, {len(binaries)} binaries"
        say(f"  {process.pid:>7}  {process.comm:<16} {count}")
    counts = found.table.counts()
    say("pages      " + ", ".join(f"{kind} {n:,}" for kind, n in counts.items() if n))
    say(f"took       {found.took_s:.3f} s, guest paused for at most {found.paused_ms:.1f} ms")
