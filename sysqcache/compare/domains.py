# SPDX-License-Identifier: GPL-2.0-or-later
"""Ways to start a machine of libvirt, side by side: cold, warm, and from a managed save.

What is measured is a transient copy behind overlays, with the packs that the domain's next
start would map; nothing is recorded. A managed save is what `virsh save` writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from sysqcache.base.errors import DomainRefused, GuestCommandError, LibvirtError, UsageError
from sysqcache.compare import host
from sysqcache.compare.events import Listener
from sysqcache.compare.figures import Sample
from sysqcache.compare.result import DOMAINS, Result
from sysqcache.compare.rounds import Measured, Rounds, Step
from sysqcache.compare.ways import AnyWay, DomainWay
from sysqcache.libvirt import rewrite
from sysqcache.libvirt.connect import (
    connect,
    explained,
    inactive_xml,
    lookup,
    module,
    require_local,
)
from sysqcache.libvirt.copies import DomainCopy
from sysqcache.libvirt.facts import DomainFacts
from sysqcache.libvirt.folder import DomainFolder, DomainState, run_directory
from sysqcache.libvirt.follow import peer
from sysqcache.libvirt.publish import emulator, engines_dir
from sysqcache.machine import progress
from sysqcache.machine.guest.agent import AgentCommands
from sysqcache.qmp import commands
from sysqcache.qmp.client import QmpClient
from sysqcache.spec.engines import load

if TYPE_CHECKING:
    import libvirt

_AGENT: Final = "org.qemu.guest_agent.0"
_READY_SECONDS: Final = 300.0
_POLL: Final = 0.02
_SETTLE: Final = 3.0


@dataclasses.dataclass(frozen=True, slots=True)
class DomainRequest:
    """What to measure: ``runs`` rounds of ``ways``, with a task that may take ``timeout``."""

    name: str
    uri: str
    task: str
    runs: int
    ways: Sequence[DomainWay] = tuple(DomainWay)
    timeout: float = 3600.0


def compare_domain(request: DomainRequest, listener: Listener = progress.ignore) -> Result:
    """Measure every way as often as it is asked for.

    ``KeyboardInterrupt`` gives what was measured so far. Raises :class:`DomainRefused` for a
    domain that runs, is saved, is not enabled, has no guest agent or has not learnt anything
    yet; other errors when a start fails.
    """
    if request.runs < 1:
        raise UsageError(f"--runs takes 1 or more; found {request.runs}")
    connection = connect(request.uri)
    require_local(connection)
    domain = lookup(connection, request.name)
    xml = inactive_xml(domain)
    folder = DomainFolder(domain.UUIDString())
    _require_comparable(domain, xml, folder)
    _end_earlier(connection, _copy_name(domain.name()))
    state = folder.read()
    result = Result(
        domain.name(),
        request.task,
        request.runs,
        host.facts(),
        _engine(state),
        tuple(request.ways),
        subject=DOMAINS,
    )
    with _copy(folder, state, xml) as copy:
        comparison = _Comparison(connection, copy, request)
        saved = any(way.saved for way in request.ways)
        steps = [Step("saving it", comparison.save)] if saved else []
        Rounds(result, listener, steps).run(comparison.measured)
    return result


def _engine(state: DomainState) -> dict[str, str]:
    engine = load(engines_dir() / state.engine, state.arch)
    if engine is None:
        return {}
    key = str(engine.meta.get("key", ""))  # its directory is named by its build id here
    return {"version": engine.version, "key": key, "build_id": engine.build_id}


def _require_comparable(domain: libvirt.virDomain, xml: str, folder: DomainFolder) -> None:
    name = domain.name()
    if rewrite.find_mark(xml) is None:
        raise DomainRefused(f"{name} has no cache", hint=f"sysqcache libvirt enable {name}")
    if domain.isActive():
        raise DomainRefused(f"{name} is running", hint=f"virsh shutdown {name}")
    if _AGENT not in xml:
        raise DomainRefused(
            f"{name} can't be compared: no command can be run in it",
            hint=f"give it a channel {_AGENT}, and the guest qemu-guest-agent",
        )
    with contextlib.suppress(OSError):
        if folder.boot_set.read_text().strip():
            return
    raise DomainRefused(
        f"{name} has not learnt anything yet",
        hint="start it and shut it down once, beside sysqcache libvirt watch",
    )


def _copy_name(name: str) -> str:
    return f"{name}-compare"


def _end_earlier(connection: libvirt.virConnect, name: str) -> None:
    """End the copy that a killed comparison left."""
    libvirt = module()
    with contextlib.suppress(libvirt.libvirtError):
        left = connection.lookupByName(name)
        if not left.isPersistent():
            left.destroy()


@contextlib.contextmanager
def _copy(folder: DomainFolder, state: DomainState, xml: str) -> Iterator[DomainCopy]:
    """The copy of an enabled domain; its directory is removed afterwards."""
    mark, plain = rewrite.find_mark(xml), rewrite.disabled(xml)
    no_acpi = mark is not None and mark.no_acpi
    program = emulator(state.engine, state.arch)
    directory = run_directory(folder.copy_uuid)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    if os.geteuid() == 0:
        os.chown(directory, state.uid, state.gid)
    directory.chmod(0o711)
    paths = rewrite.CachePaths(
        program,
        directory / "none",
        folder.boot_set,
        directory / "qmp.sock",
        directory / "qmp2.sock",
    )
    name = _copy_name(DomainFacts.of(plain).name)
    qemu_img = program.with_name("qemu-img")
    try:
        yield DomainCopy(
            directory, name, folder.copy_uuid, plain, paths, state.owner, qemu_img, no_acpi
        )
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class _Agent(AgentCommands):
    """The guest agent, asked through libvirt, which holds its channel."""

    def __init__(self, domain: libvirt.virDomain) -> None:
        self._domain = domain

    def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, timeout: float = 30.0
    ) -> Any:
        import libvirt_qemu

        libvirt = module()
        request = {"execute": command, "arguments": dict(arguments or {})}
        try:
            text = libvirt_qemu.qemuAgentCommand(self._domain, json.dumps(request), int(timeout), 0)
        except libvirt.libvirtError as error:
            raise GuestCommandError(f"guest agent, {command}: {error}") from None
        return json.loads(text)["return"]

    def wait(self) -> None:
        """Until a command has run. Raises :class:`GuestCommandError` after some minutes."""
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                self.run("true", 30.0)
            except GuestCommandError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_POLL)
            else:
                return


class _Comparison:
    """Starts and saves of one copy."""

    def __init__(
        self, connection: libvirt.virConnect, copy: DomainCopy, request: DomainRequest
    ) -> None:
        self._connection, self._copy, self._request = connection, copy, request
        self._file = copy.directory / "saved"
        self._aside = copy.directory / "saved-disks"
        self._prepared = 0.0

    def measured(self, way: AnyWay, number: int, _quiet: object) -> Measured:
        """One start, as rounds want it."""
        assert isinstance(way, DomainWay)
        return self.start(way, number), ()

    def save(self, _quiet: object) -> str:
        """Boot, wait until the guest is idle, and save it: for both ways to go on."""
        began = time.monotonic()
        with self._running(DomainWay.WARM) as domain:
            _Agent(domain).wait()
            time.sleep(_SETTLE)
            with explained(f"{domain.name()} can't be saved"):
                domain.save(str(self._file))
            self._copy.put_aside(self._aside)
        return f"{time.monotonic() - began:.1f} s"

    def start(self, way: DomainWay, number: int) -> Sample:
        """One start with two runs of the task."""
        with self._running(way) as domain:
            prepared = self._prepared
            started = time.monotonic()
            agent = _Agent(domain)
            agent.wait()
            ready = time.monotonic()
            ready_rate = self._hit_rate()
            task, timeout = self._request.task, self._request.timeout
            first = agent.run(task, timeout)
            second = agent.run(task, timeout)
            if first.exit or second.exit:
                raise GuestCommandError(f"{task!r} failed in the guest", detail=first.stderr)
            process = peer(self._copy.paths.introspection)
            return Sample(
                way=way,
                round=number,
                start_s=started - prepared,
                ready_s=ready - prepared,
                first_task_s=first.wall_s,
                second_task_s=second.wall_s,
                host_cpu_s=process.cpu_seconds() if process is not None else 0.0,
                hit_rate=self._hit_rate(),
                ready_hit_rate=ready_rate,
            )

    def _hit_rate(self) -> float:
        with QmpClient.connect(self._copy.paths.monitor) as qmp:
            stats = commands.query_tb_cache(qmp)
        return stats.adopted / stats.requested if stats is not None and stats.requested else 0.0

    @contextlib.contextmanager
    def _running(self, way: DomainWay) -> Iterator[libvirt.virDomain]:
        """The copy, started one way; it is gone afterwards."""
        libvirt = module()
        if way.saved:
            self._copy.bring_back(self._aside)
        else:
            self._copy.fresh_disks()
        # what was written before is not to be written during this one
        os.sync()
        self._prepared = time.monotonic()
        with explained(f"{self._copy.name} does not start"):
            xml = self._copy.xml(cached=way.cached)
            if way.saved:
                self._connection.restoreFlags(str(self._file), xml, 0)
                domain = self._connection.lookupByName(self._copy.name)
            else:
                domain = self._connection.createXML(xml)
        try:
            yield domain
        finally:
            with contextlib.suppress(libvirt.libvirtError, LibvirtError):
                domain.destroy()
