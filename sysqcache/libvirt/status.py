# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be said about an enabled domain, whether it runs or not, and a look into its guest."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

from sysqcache.base import paths
from sysqcache.base.errors import DomainRefused, LibvirtError, SysqcacheError
from sysqcache.libvirt import rewrite, waiting
from sysqcache.libvirt.connect import connect, explained, lookup, require_local
from sysqcache.libvirt.folder import DomainFolder, DomainState, store_root
from sysqcache.libvirt.follow import peer
from sysqcache.machine.instances import ForeignProcess
from sysqcache.machine.report import blocks_json
from sysqcache.qmp import commands
from sysqcache.qmp.client import QmpClient
from sysqcache.qmp.commands import TbCacheStats

if TYPE_CHECKING:
    from sysqcache.guestmap.result import GuestMap

_ANSWER_SECONDS = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class DomainStatus:
    """``state`` is None when the cache is off; ``stats`` is None unless the domain runs."""

    name: str
    uuid: str
    enabled: bool
    running: bool
    saved: bool
    followed: bool
    state: DomainState | None
    stats: TbCacheStats | None
    waiting: int = 0
    waiting_bytes: int = 0
    store_bytes: int = 0
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """The object that ``libvirt status --json`` prints."""
        state, last = self.state, self.state.last if self.state is not None else None
        return {
            "domain": self.name,
            "uuid": self.uuid,
            "enabled": self.enabled,
            "running": self.running,
            "managed_save": self.saved,
            "followed": self.followed,
            "uri": state.uri if state else "",
            "engine": state.engine if state else "",
            "store": str(store_root(state)) if state else "",
            "store_bytes": self.store_bytes,
            "shared": state.shared if state else False,
            "runs": state.runs if state else 0,
            "waiting_journals": self.waiting,
            "waiting_bytes": self.waiting_bytes,
            "rejected_journals": state.rejected if state else 0,
            "damaged_blocks": state.damaged if state else 0,
            "warning": self.problem or (state.warning if state else ""),
            "blocks": blocks_json(self.stats) if self.stats is not None else None,
            "last_run": dataclasses.asdict(last) | {"hit_rate": round(last.hit_rate, 6)}
            if last is not None and last.ended
            else None,
        }


def status(name: str, uri: str) -> DomainStatus:
    """Look at one domain; needs no more than a connection that may read.

    Raises :class:`LibvirtError` when libvirt or the domain is not there.
    """
    connection = connect(uri, read_only=True)
    domain = lookup(connection, name)
    with explained(f"the state of {name} can't be read"):
        folder = DomainFolder(domain.UUIDString())
        running, saved = bool(domain.isActive()), bool(domain.hasManagedSaveImage())
        enabled = rewrite.find_mark(domain.XMLDesc(0)) is not None
    state, problem, followed = None, "", False
    if folder.exists():
        try:
            state = folder.read()
            with folder.held() as free:
                followed = not free
        except (LibvirtError, OSError) as error:
            problem = str(error)
    elif enabled:
        problem = f"{folder.directory} is missing: sysqcache libvirt enable {name} makes it"
    left = waiting.journals(folder)
    return DomainStatus(
        name=domain.name(),
        uuid=folder.uuid,
        enabled=enabled,
        running=running,
        saved=saved,
        followed=followed,
        state=state,
        stats=ask_counters(folder) if running and enabled else None,
        waiting=len(left),
        waiting_bytes=sum(path.stat().st_size for path in left),
        store_bytes=_store_bytes(state),
        problem=problem,
    )


def ask_counters(folder: DomainFolder) -> TbCacheStats | None:
    """The counters of a running domain, None when its channel is in use."""
    with (
        contextlib.suppress(SysqcacheError),
        QmpClient.connect(folder.introspection, timeout=_ANSWER_SECONDS) as qmp,
    ):
        return commands.query_tb_cache(qmp, _ANSWER_SECONDS)
    return None


def _store_bytes(state: DomainState | None) -> int:
    if state is None:
        return 0
    packs = store_root(state) / paths.STORE_PACKS
    return sum(path.stat().st_size for path in packs.glob(f"*{paths.PACK_SUFFIX}"))


def map_domain(name: str, uri: str) -> GuestMap:
    """Map the guest of an enabled domain that runs; needs a connection that may read.

    Raises :class:`DomainRefused` for a domain without our QMP channel, :class:`MachineDied`
    when it ends meanwhile, and :class:`MachineError` without the right to read QEMU's memory.
    """
    from sysqcache.guestmap import mapper

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
