# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs a whole comparison: fills a store, saves the machine by each method, takes turns.

Everything happens in a state directory of its own; the user's machines, saved states and
blocks are neither used nor changed.
"""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Final

from sysqcache.base import paths
from sysqcache.base.errors import MachineError, UsageError
from sysqcache.base.types import CacheMode, DiskMode, GuestAccess
from sysqcache.compare import events, host, nonce
from sysqcache.compare.events import Listener, Noted, StepBegan, StepEnded
from sysqcache.compare.figures import Sample
from sysqcache.compare.machines import Machines, private
from sysqcache.compare.result import Result, Saving
from sysqcache.compare.ways import Way, supported, turns
from sysqcache.compare.workshop import disk_bytes, workshop
from sysqcache.saved.record import Method
from sysqcache.spec.engines import Engine, find_engine
from sysqcache.spec.spec import MachineSpec

_BUSY_SHARE: Final = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What to compare: ``ways`` in ``runs`` rounds; ``timeout`` seconds for one command."""

    spec: MachineSpec
    ways: tuple[Way, ...]
    task: str = "true"
    runs: int = 5
    timeout: float = 3600.0


def compare(request: Request, listener: Listener = events.ignore) -> Result:
    """Measure every way.

    A way that breaks is noted and left out from then on. ``KeyboardInterrupt`` gives what
    was measured so far. Raises :class:`UsageError` when nothing can be compared,
    :class:`MachineError` when the machine does not boot or its command fails there, and
    :class:`SavedStateError` when a resumed guest is not the one that was saved.
    """
    engine = find_engine(str(request.spec.arch))
    result = _new_result(request, engine)
    started = time.monotonic()
    with workshop(engine.dir):
        try:
            _Comparison(request, result, listener).run()
        except KeyboardInterrupt:
            result.interrupted = True
    result.took_s = time.monotonic() - started
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
    """One comparison that runs in its own state directory."""

    def __init__(self, request: Request, result: Result, listener: Listener) -> None:
        self.request, self.result, self.listener = request, result, listener
        self.machines = Machines(private(request.spec), request.task, request.timeout)
        ways = result.ways
        self.methods = [m for m in Method if any(way.method is m for way in ways)]
        self.needs_store = any(way.cached for way in ways)
        self.nonces: dict[Method, str] = {}
        self.learning = [m for m in self.methods if any(w.method is m and w.cached for w in ways)]
        before = self.needs_store + len(self.methods) + len(self.learning)
        self.steps = before + request.runs * len(ways)
        self.step = 0
        self.title = ""

    def run(self) -> None:
        for note in self.result.notes:
            self.listener(Noted(note))
        if self.needs_store:
            self._fill()
        for method in self.methods:
            self._save(method)
        for method in self.learning:
            self._learn(method)
        for number, way in turns(self.result.ways, self.request.runs):
            self._turn(number, way)

    def _begin(self, title: str) -> None:
        self.step, self.title = self.step + 1, title
        self.listener(StepBegan(self.step, self.steps, title))

    def _end(self, outcome: str) -> None:
        self.listener(StepEnded(self.title, outcome))

    def _note(self, text: str) -> None:
        if self.result.note(text):
            self.listener(Noted(text))

    def _fail(self, ways: list[Way], error: MachineError) -> None:
        for way in ways:
            self.result.failed[way] = error.message
        self._end(f"failed: {error.message}")

    def _fill(self) -> None:
        self._begin("first boot, to have blocks")
        report = self.machines.fill(events.phases_only(self.listener))
        for warning in report.warnings:
            self._note(f"first boot: {warning}")
        self.result.store_bytes = disk_bytes(paths.store_dir() / paths.STORE_PACKS)
        self._end(f"{report.ingest.blocks_new:,} blocks in {self.result.store_bytes >> 20} MiB")

    def _save(self, method: Method) -> None:
        self._begin(f"suspend, {method}")
        value = nonce.fresh()
        mode = CacheMode.READ_ONLY if self.needs_store else CacheMode.OFF
        quiet = events.phases_only(self.listener)
        try:
            saved, warnings = self.machines.suspend(method, value, mode, quiet)
        except MachineError as error:
            self._fail([way for way in self.result.ways if way.method is method], error)
            return
        for warning in warnings:
            self._note(f"{method}: {warning}")
        self.nonces[method] = value
        size = saved.record.disk_bytes
        self.result.savings[method] = Saving(saved.suspend_s, saved.wall_s, size)
        self._end(f"{saved.suspend_s:.2f} s, {size >> 20} MiB")

    def _learn(self, method: Method) -> None:
        """Resume once and keep the blocks: each later resume finds the guest at the same place."""
        ways = [way for way in self.result.ways if way.method is method and way.cached]
        if ways[0] in self.result.failed:
            self.step += 1
            return
        self._begin(f"resume, {method}, to have its blocks")
        try:
            report = self.machines.learn(method, events.phases_only(self.listener))
        except MachineError as error:
            self._fail(ways, error)
            return
        for warning in report.warnings:
            self._note(f"{method}: {warning}")
        self._end(f"{report.ingest.blocks_new:,} blocks")

    def _turn(self, number: int, way: Way) -> None:
        if way in self.result.failed:
            self.step += 1
            return
        self._begin(f"{way}, round {number + 1} of {self.request.runs}")
        # what earlier runs wrote is not to be written during this one
        os.sync()
        noise = host.Noise()
        quiet = events.phases_only(self.listener)
        try:
            sample, memory, warnings = self.machines.start(way, number, CacheMode.READ_ONLY, quiet)
        except MachineError as error:
            self._fail([way], error)
            return
        nonce.check(way, memory, self.nonces[way.method] if way.method is not None else "")
        sample = dataclasses.replace(sample, noise=noise.measure())
        self.result.samples.append(sample)
        for warning in warnings:
            self._note(f"{way}: {warning}")
        self._end(_outcome(sample))


def _outcome(sample: Sample) -> str:
    text = (
        f"ready {sample.ready_s:.3f} s, first task {sample.first_task_s:.3f} s, "
        f"second {sample.second_task_s:.3f} s"
    )
    if sample.hit_rate:
        text += f", hits {sample.hit_rate:.1%}"
    others, took = sample.noise.get("others_cpu_s", 0.0), sample.noise.get("took_s", 0.0)
    return text + (f"  (others used {others:.1f} s CPU)" if others > _BUSY_SHARE * took else "")
