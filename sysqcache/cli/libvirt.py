# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache libvirt`: warm caches for machines that libvirt manages."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from sysqcache.cli.loglines import note
from sysqcache.cli.options import Json, print_json, say

if TYPE_CHECKING:
    from sysqcache.libvirt.status import DomainStatus

app = typer.Typer(
    help="Give machines that libvirt manages a warm cache; virsh and others go on as before.",
    no_args_is_help=True,
)

Domain = Annotated[str, typer.Argument(metavar="DOMAIN", help="Name or UUID of the domain.")]
Connect = Annotated[
    str,
    typer.Option("--connect", "-c", metavar="URI", help="As for virsh; libvirt's own default."),
]


def _warn(text: str) -> None:
    note(f"warning: {text}")


@app.command()
def enable(
    domain: Domain,
    connect: Connect = "",
    share: Annotated[
        str,
        typer.Option(
            "--share", metavar="NAME", help="Keep blocks in a store that trusted domains share."
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Give a domain that is shut off the cache; the one that has it gets the present engine.

    Changes the domain's definition: its emulator, the cache object and two QMP channels of
    its own, and a note in its metadata of what was there before. Nothing that a guest sees.
    """
    from sysqcache.base.errors import UsageError
    from sysqcache.libvirt import manage

    if share and not share.replace("-", "").replace("_", "").isalnum():
        raise UsageError(f"--share takes letters, digits, - and _; found {share!r}")
    done = manage.enable(domain, connect, share, _warn)
    if as_json:
        print_json({"domain": done.state.name, "uuid": done.state.uuid, "packs": done.packs})
        return
    how = "has the present engine now" if done.again else "has the cache"
    say(f"{done.state.name} {how}; its next start maps {done.packs} packs")
    say("sysqcache libvirt watch, or the hook, keeps what it translates")


@app.command()
def disable(
    domain: Domain,
    connect: Connect = "",
    keep_blocks: Annotated[
        bool, typer.Option("--keep-blocks", help="Leave the domain's store for a later enable.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Take the cache away from a domain that is shut off, and all files that it had.

    Its definition is again what libvirt would have had without us. A domain that libvirt
    no longer knows is forgotten.
    """
    from sysqcache.libvirt import manage

    state = manage.disable(domain, connect, keep_blocks, _warn)
    name = state.name if state is not None else domain
    if as_json:
        print_json({"domain": name, "was_enabled": state is not None})
        return
    say(f"{name} is as it was" if state is not None else f"{name} had no cache")


@app.command()
def status(domain: Domain, connect: Connect = "", as_json: Json = False) -> None:
    """Show a domain's cache: on or off, its last run, what waits to be kept."""
    from sysqcache.libvirt.status import status as look

    found = look(domain, connect)
    if as_json:
        print_json(found.to_json())
        return
    for line in _lines(found):
        say(line)


def _lines(found: DomainStatus) -> list[str]:
    running = "running" if found.running else "saved" if found.saved else "shut off"
    lines = [f"domain     {found.name} ({running})"]
    state = found.state
    lines.append(f"cache      {'on' if found.enabled else 'off'}")
    if state is not None:
        followed = "yes" if found.followed else "no: sysqcache libvirt watch, or the hook"
        kind = "shared" if state.shared else "its own"
        lines += [f"followed   {followed}"] if found.running else []
        lines.append(f"store      {found.store_bytes / (1 << 20):,.1f} MiB, {kind}")
        lines.append(f"waiting    {found.waiting} journals, {found.waiting_bytes:,} bytes")
        lines.append(f"rejected   {state.rejected} journals, {state.damaged:,} damaged blocks")
        if state.last.ended:
            lines.append(
                f"last run   {state.last.hit_rate:.2%} of {state.last.requested:,} blocks adopted, "
                f"{state.last.blocks_new:,} new ones kept"
            )
    if found.stats is not None:
        stats = found.stats
        rate = stats.adopted / stats.requested if stats.requested else 0.0
        lines.append(f"this run   {rate:.2%} of {stats.requested:,} blocks adopted")
    problem = found.problem or (state.warning if state is not None else "")
    return [*lines, f"warning    {problem}"] if problem else lines


@app.command()
def watch(connect: Connect = "") -> None:
    """Follow all enabled domains until it is told to stop (Ctrl-C, SIGTERM).

    Keeps what they translate, finds out what it belongs to, and prepares their next starts.
    Domains start without it, too: with the blocks kept so far.
    """
    import signal

    from sysqcache.libvirt.watch import Watcher

    watcher = Watcher(connect, note)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: watcher.stop())
    watcher.run()


@app.command()
def follow(
    domain: Annotated[str, typer.Argument(metavar="DOMAIN", help="Name or UUID.")] = "",
    connect: Connect = "",
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Read the domain's XML from stdin; ask no libvirt.")
    ] = False,
) -> None:
    """Follow one running domain until it ends: what the hook starts instead of the watcher."""
    from sysqcache.base.errors import DomainRefused, UsageError
    from sysqcache.libvirt import connect as connecting
    from sysqcache.libvirt.facts import DomainFacts
    from sysqcache.libvirt.folder import DomainFolder
    from sysqcache.libvirt.follow import Follower

    if stdin == bool(domain):
        raise UsageError("follow takes the name of a domain, or --stdin")
    if stdin:
        xml = sys.stdin.read()
    else:
        connection = connecting.connect(connect, read_only=True)
        found = connecting.lookup(connection, domain)
        with connecting.explained(f"the definition of {domain} can't be read"):
            xml = found.XMLDesc(0)
        connection.close()
    facts = DomainFacts.of(xml)
    folder = DomainFolder(facts.uuid)
    if not folder.exists():
        raise DomainRefused(
            f"{facts.name} has no cache", hint=f"sysqcache libvirt enable {facts.name}"
        )
    Follower(folder, xml, note).follow()


@app.command()
def unit() -> None:
    """Print the systemd unit of the watcher, for /etc/systemd/system.

    Not as root: that of a watcher of qemu:///session, for ~/.config/systemd/user.
    """
    from sysqcache.libvirt import service

    sys.stdout.write(service.unit())


@app.command()
def hook() -> None:
    """Print the libvirt hook, for /etc/libvirt/hooks/qemu.d, instead of the watcher."""
    from sysqcache.libvirt import service

    sys.stdout.write(service.hook())


@app.command()
def apparmor(
    profile: Annotated[
        str, typer.Argument(metavar="qemu|libvirtd", help="Whose rules.", show_default=False)
    ],
) -> None:
    """Print what AppArmor has to allow, for /etc/apparmor.d/local/.

    Those of qemu belong into abstractions/libvirt-qemu there, those of libvirtd into
    usr.sbin.libvirtd; what these files hold already should stay.
    """
    from sysqcache.base.errors import UsageError
    from sysqcache.libvirt import service

    if profile not in service.PROFILES:
        raise UsageError(f"apparmor takes {' or '.join(service.PROFILES)}; found {profile!r}")
    sys.stdout.write(service.apparmor(profile))
