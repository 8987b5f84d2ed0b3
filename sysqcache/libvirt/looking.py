# SPDX-License-Identifier: GPL-2.0-or-later
"""A look into the guest of a domain that runs, unnoticed by libvirt."""

from __future__ import annotations

from sysqcache.base import paths
from sysqcache.base.errors import DomainRefused
from sysqcache.guestmap import mapper
from sysqcache.guestmap.result import GuestMap
from sysqcache.libvirt import rewrite
from sysqcache.libvirt.connect import connect, explained, lookup, require_local
from sysqcache.libvirt.folder import DomainFolder
from sysqcache.libvirt.follow import peer
from sysqcache.machine.instances import ForeignProcess


def map_domain(name: str, uri: str) -> GuestMap:
    """Map the guest of an enabled domain that runs; needs a connection that may read.

    Raises :class:`DomainRefused` for a domain without our QMP channel, :class:`MachineDied`
    when it ends meanwhile, and :class:`MachineError` without the right to read QEMU's memory.
    """
    connection = connect(uri, read_only=True)
    require_local(connection)
    domain = lookup(connection, name)
    with explained(f"the state of {name} can't be read"):
        folder, running = DomainFolder(domain.UUIDString()), bool(domain.isActive())
        enabled = rewrite.find_mark(domain.XMLDesc(0)) is not None
    if not running:
        raise DomainRefused(f"{domain.name()} is not running", hint=f"virsh start {domain.name()}")
    process = peer(folder.introspection) if enabled else None
    if process is None:
        raise DomainRefused(
            f"{domain.name()} runs without a QMP channel of ours",
            hint=f"virsh shutdown {domain.name()}, sysqcache libvirt enable {domain.name()}",
        )
    foreign = ForeignProcess(process, folder.directory / paths.INSTANCE_QEMU_LOG)
    return mapper.map_machine(folder.introspection, foreign, quiet=True)
