# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a whole comparison: fills a store, saves the machine by each method, takes turns.

Everything happens in a state directory of its own; the user's machines, saved states and
blocks are neither used nor changed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

from sysqcache.base import paths
from sysqcache.base.errors import UsageError
from sysqcache.base.types import CacheMode, DiskMode, GuestAccess
from sysqcache.compare import host, nonce
from sysqcache.compare.events import Listener
from sysqcache.compare.machines import Machines, private
from sysqcache.compare.result import Result, Saving
from sysqcache.compare.rounds import Measured, Rounds, Step
from sysqcache.compare.ways import AnyWay, Way, supported
from sysqcache.compare.workshop import disk_bytes, workshop
from sysqcache.machine import progress
from sysqcache.saved.record import Method
from sysqcache.spec.engines import Engine, find_engine
from sysqcache.spec.spec import MachineSpec


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What to compare: ``ways`` in ``runs`` rounds; ``timeout`` seconds for one command."""

    spec: MachineSpec
    ways: tuple[Way, ...]
    task: str = "true"
    runs: int = 5
    timeout: float = 3600.0


def compare(request: Request, listener: Listener = progress.ignore) -> Result:
    """Measure every way.

    A way that breaks is noted and left out from then on. ``KeyboardInterrupt`` gives what
    was measured so far. Raises :class:`UsageError` when nothing can be compared,
    :class:`MachineError` when the machine does not boot or its command fails there, and
    :class:`SavedStateError` when a resumed guest is not the one that was saved.
    """
    engine = find_engine(str(request.spec.arch))
    result = _new_result(request, engine)
    with workshop(engine.dir):
        _Comparison(request, result, listener).run()
    return result


def _new_result(request: Request, engine: Engine) -> Result:
    spec = request.spec
    if spec.agent is GuestAccess.NONE:
        raise UsageError(
            f"{spec.name} can't be compared: no command can be run in it",
            hint="set agent: guest-agent or agent: serial-shell in vm.yaml",
        )
    if request.runs < 1:
        raise UsageError(f"--runs takes 1 or more; found {request.runs}")
    possible, left_out = supported(request.ways, private(spec), plain=engine.plain)
    if not possible:
        raise UsageError(
            f"{spec.name} can't be started by any of these ways",
            detail="\n".join(sorted(set(left_out.values()))),
        )
    about = {"key": engine.key, "build_id": engine.build_id, "version": engine.version}
    facts = host.facts()
    result = Result(spec.name, request.task, request.runs, facts, about, possible, left_out)
    if float(facts["load"]) > host.BUSY_LOAD:
        result.note(f"the host was busy at the start (load {facts['load']:.1f})")
    if any(disk.mode is DiskMode.PERSISTENT for disk in spec.disks):
        result.note("persistent disks were compared with overlays, so that nothing is written")
    return result


class _Comparison:
    """What a comparison of a machine of vm.yaml does in its own state directory."""

    def __init__(self, request: Request, result: Result, listener: Listener) -> None:
        self.result = result
        self.machines = Machines(private(request.spec), request.task, request.timeout)
        self.needs_store = any(way.cached for way in result.ways)
        self.nonces: dict[Method, str] = {}
        self.memory = ""
        self.rounds = Rounds(result, listener, list(self._steps()))

    def run(self) -> None:
        self.rounds.run(self._start, self._check)

    def _steps(self) -> Iterator[Step]:
        ways = [way for way in self.result.ways if isinstance(way, Way)]
        of = {method: tuple(way for way in ways if way.method is method) for method in Method}
        cached = {m: tuple(way for way in found if way.cached) for m, found in of.items()}
        if self.needs_store:
            yield Step("first boot, to have blocks", self._fill)
        for method, wanted in of.items():
            if wanted:
                yield Step(f"suspend, {method}", functools.partial(self._save, method), wanted)
        for method, wanted in cached.items():
            if wanted:
                title = f"resume, {method}, to have its blocks"
                yield Step(title, functools.partial(self._learn, method), wanted)

    def _note(self, whose: str, warnings: Sequence[str]) -> None:
        for warning in warnings:
            self.rounds.note(f"{whose}: {warning}")

    def _fill(self, quiet: progress.Listener) -> str:
        report = self.machines.fill(quiet)
        self._note("first boot", report.warnings)
        self.result.store_bytes = disk_bytes(paths.store_dir() / paths.STORE_PACKS)
        return f"{report.ingest.blocks_new:,} blocks in {self.result.store_bytes >> 20} MiB"

    def _save(self, method: Method, quiet: progress.Listener) -> str:
        value = nonce.fresh()
        mode = CacheMode.READ_ONLY if self.needs_store else CacheMode.OFF
        saved, warnings = self.machines.suspend(method, value, mode, quiet)
        self._note(str(method), warnings)
        self.nonces[method] = value
        size = saved.record.disk_bytes
        self.result.savings[method] = Saving(saved.suspend_s, saved.wall_s, size)
        return f"{saved.suspend_s:.2f} s, {size >> 20} MiB"

    def _learn(self, method: Method, quiet: progress.Listener) -> str:
        """Resume once and keep the blocks: each later resume finds the guest at the same place."""
        report = self.machines.learn(method, quiet)
        self._note(str(method), report.warnings)
        return f"{report.ingest.blocks_new:,} blocks"

    def _start(self, way: AnyWay, number: int, quiet: progress.Listener) -> Measured:
        assert isinstance(way, Way)
        found = self.machines.start(way, number, CacheMode.READ_ONLY, quiet)
        sample, self.memory, warnings = found
        return sample, warnings

    def _check(self, way: AnyWay) -> None:
        """The guest is the one that was saved."""
        assert isinstance(way, Way)
        nonce.check(way, self.memory, self.nonces[way.method] if way.method is not None else "")
