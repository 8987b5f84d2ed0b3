# SPDX-License-Identifier: GPL-2.0-or-later
"""Gives a domain the cache and takes it away again.

Both ask first and change then: what is refused leaves the domain as it was. After a change
the definition is read back, and set back if it could not be undone byte for byte.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sysqcache.base.errors import DomainRefused, LibvirtError
from sysqcache.libvirt import ask, publish, rewrite
from sysqcache.libvirt.connect import (
    connect,
    define,
    explained,
    inactive_xml,
    lookup,
    require_local,
)
from sysqcache.libvirt.facts import DomainFacts, Owner, owner_of
from sysqcache.libvirt.folder import DomainFolder, DomainState, list_folders, store_root
from sysqcache.libvirt.intake import Intake
from sysqcache.libvirt.publish import emulator, publish_engine, require_reachable
from sysqcache.setup.engine import firmware
from sysqcache.spec.engines import find_engine

if TYPE_CHECKING:
    import libvirt

Warn = Callable[[str], None]

_PATIENCE: Final = 60.0
_STEP: Final = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class Enabled:
    """What enabling did. ``packs``: what the first start maps; ``again``: it was on before."""

    state: DomainState
    packs: int
    again: bool


def enable(name: str, uri: str, share: str, warn: Warn) -> Enabled:
    """Give a domain the cache; one that has it gets the present engine.

    :param share: name of a store that it shares with other domains, "" for its own.
    Raises :class:`DomainRefused` and other errors; the domain is as before then.
    """
    connection = connect(uri)
    require_local(connection)
    domain = lookup(connection, name)
    _require_off(domain, "have the cache")
    xml = inactive_xml(domain)
    facts = DomainFacts.of(xml)
    arch = facts.require_tcg()
    owner = _owner(connection, facts)
    folder = DomainFolder(facts.uuid)
    built = find_engine(str(arch))
    engine = publish_engine(built)
    if lacking := firmware.missing([str(arch)], built.firmware_dir):
        warn(
            f"the engine lacks {', '.join(lacking)}: devices that need them do not start; "
            "sysqcache engine build fetches them"
        )
    again = rewrite.find_mark(xml) is not None
    before = _known_state(folder)
    try:
        program = emulator(engine, str(arch))
        require_reachable(program, owner)
        plain = rewrite.disabled(xml)
        wanted = _wanted(connection, folder, plain, program, facts.name)
        ask.require_support(connection, wanted, facts.name, program)
        state = _state(folder, facts, owner, engine, share, connection.getURI())
        folder.make(owner)
        folder.write(state)
        packs = Intake(folder, state, plain, warn).next_start()
        _define_reversibly(connection, facts.name, plain, wanted, xml)
    except BaseException:
        if not again:
            folder.remove()
        elif before is not None:  # it still runs the engine that this names
            folder.write(before)
        if before is not None or not again:
            _clean_up()
        raise
    _clean_up()
    return Enabled(state, packs, again)


def _wanted(
    connection: libvirt.virConnect, folder: DomainFolder, plain: str, program: Path, name: str
) -> str:
    """The definition with the cache on, as this libvirt and this engine get on with it."""
    cache = folder.cache_paths(program)
    wanted = rewrite.enabled(plain, cache)
    if ask.needs_no_acpi(ask.command_line(connection, wanted, name), program):
        return rewrite.enabled(plain, cache, no_acpi=True)
    return wanted


def _known_state(folder: DomainFolder) -> DomainState | None:
    with contextlib.suppress(LibvirtError):
        return folder.read()
    return None


def _owner(connection: libvirt.virConnect, facts: DomainFacts) -> Owner:
    with explained("libvirt does not tell who QEMU runs as"):
        capabilities = connection.getCapabilities()
    return owner_of(capabilities, facts.kind, facts.label)


def _state(
    folder: DomainFolder, facts: DomainFacts, owner: Owner, engine: str, share: str, uri: str
) -> DomainState:
    """A new state, or the one that there is with what may have changed."""
    store = f"shared-{share}" if share else facts.uuid
    fresh = DomainState(
        uuid=facts.uuid,
        name=facts.name,
        uri=uri,
        arch=facts.arch,
        engine=engine,
        store=store,
        shared=bool(share),
        uid=owner.uid,
        gid=owner.gid,
    )
    old = _known_state(folder)
    if old is not None:
        fresh = dataclasses.replace(
            fresh, runs=old.runs, rejected=old.rejected, damaged=old.damaged, last=old.last
        )
        if not share:
            return dataclasses.replace(fresh, store=old.store, shared=old.shared)
    return fresh


def _define_reversibly(
    connection: libvirt.virConnect, name: str, plain: str, wanted: str, before: str
) -> None:
    """Define the changed domain, if that can be undone byte for byte.

    libvirt may print a definition otherwise than it did before as soon as it is defined
    anew (it sorts controllers, for one); so the plain one is defined first.
    """
    try:
        normal = define(connection, plain, name)
        result = define(connection, wanted, name)
        if rewrite.disabled(result) != normal:
            raise DomainRefused(
                f"libvirt changes more of {name} than could be taken back",
                hint="please report it with the output of virsh dumpxml --inactive",
            )
    except BaseException:
        with contextlib.suppress(LibvirtError):
            define(connection, before, name)
        raise


def disable(name: str, uri: str, keep_blocks: bool, warn: Warn) -> DomainState | None:
    """Take the cache away from a domain, and its folder.

    A folder whose domain is gone is removed as well. None when the cache was off already.

    :param keep_blocks: leave the domain's own store for a later ``enable``.
    Raises :class:`DomainRefused`; the domain is as before then.
    """
    connection = connect(uri)
    require_local(connection)
    try:
        domain = lookup(connection, name)
    except LibvirtError:
        folder = _abandoned(name)
        if folder is None:
            raise
        return _forget(folder, keep_blocks, "", warn)
    _require_off(domain, "lose the cache")
    _require_no_snapshots(domain)
    xml = inactive_xml(domain)
    folder = DomainFolder(domain.UUIDString())
    if rewrite.find_mark(xml) is None and not folder.exists():
        return None
    plain = rewrite.disabled(xml)
    define(connection, plain, domain.name())
    return _forget(folder, keep_blocks, plain, warn)


def _abandoned(name: str) -> DomainFolder | None:
    """The folder of a domain that libvirt no longer knows."""
    for folder in list_folders():
        with contextlib.suppress(LibvirtError):
            if name in (folder.uuid, folder.read().name):
                return folder
    return None


def _forget(folder: DomainFolder, keep_blocks: bool, xml: str, warn: Warn) -> DomainState | None:
    """Remove a domain's folder and, unless it shall stay or is shared, its store."""
    state = _known_state(folder)
    try:
        if state is not None:
            _empty(folder, state, keep_blocks, xml, warn)
        folder.remove()
    except OSError as error:
        raise LibvirtError(f"{folder.directory} can't be removed: {error}") from None
    _clean_up()
    return state


def _empty(
    folder: DomainFolder, state: DomainState, keep_blocks: bool, xml: str, warn: Warn
) -> None:
    """Wait for whoever still takes in the last run, then do it ourselves where it matters."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        with folder.held() as ours:
            if ours or time.monotonic() > deadline:
                if keep_blocks or state.shared:
                    intake = Intake(folder, state, xml, warn)
                    intake.rotate()
                    intake.sweep()
                else:
                    shutil.rmtree(store_root(state), ignore_errors=True)
                return
        time.sleep(_STEP)


def _clean_up() -> None:
    """Remove engines that nobody uses, and directories that hold nothing."""
    used = []
    for folder in list_folders():
        state = _known_state(folder)
        if state is None:
            return  # nobody knows which engine it needs
        used.append(state.engine)
    publish.remove_engines(used)
    publish.remove_empty()


def _require_off(domain: libvirt.virDomain, what: str) -> None:
    """Refuse a domain that runs, is saved or is not defined."""
    name = domain.name()
    with explained(f"the state of {name} can't be read"):
        active, persistent = domain.isActive(), domain.isPersistent()
        saved = domain.hasManagedSaveImage()
    if not persistent:
        raise DomainRefused(
            f"{name} is transient: it has no definition that could be changed",
            hint="virsh dumpxml it, and virsh define the result",
        )
    if active:
        raise DomainRefused(
            f"{name} is running and can't {what} now", hint=f"virsh shutdown {name}"
        )
    if saved:
        raise DomainRefused(
            f"{name} is saved, with the machine that it was, and can't {what} now",
            hint=f"virsh start {name} and virsh shutdown {name}, "
            f"or virsh managedsave-remove {name}",
        )


def _require_no_snapshots(domain: libvirt.virDomain) -> None:
    """Going back to a snapshot brings its definition back, which must have its folder."""
    with explained(f"the snapshots of {domain.name()} can't be listed"):
        names = [
            snapshot.getName()
            for snapshot in domain.listAllSnapshots()
            if rewrite.NAMESPACE in snapshot.getXMLDesc()
        ]
    if names:
        raise DomainRefused(
            f"snapshots of {domain.name()} were taken with the cache on: {', '.join(names)}",
            hint=f"virsh snapshot-delete {domain.name()} {names[0]}",
        )
