# SPDX-License-Identifier: GPL-2.0-or-later
"""Suspends a whole machine: its memory, its devices and its disks, then ends QEMU.

At each moment either the machine still runs (or waits, paused, in QEMU) or its saved state
is complete; the state that was saved before stays until the new one is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sysqcache.attribution.placer import LOOKING
from sysqcache.base import interrupts, paths
from sysqcache.base.errors import (
    GuestCommandError,
    MachineBusy,
    MachineDied,
    QmpError,
    SavedStateError,
    StoreError,
    SysqcacheError,
)
from sysqcache.base.interrupts import Interrupted
from sysqcache.base.types import DiskFormat, DiskMode, MachineState
from sysqcache.formats import ramfile
from sysqcache.machine.instances import Instance
from sysqcache.machine.life import place_before_end
from sysqcache.machine.running import Machine, settle
from sysqcache.qmp import migration
from sysqcache.saved import disks, idle, outlived, proof, room, slots, standing
from sysqcache.saved.killed import settle_killed
from sysqcache.saved.origin import snapshot_nodes
from sysqcache.saved.outside import Outside, look, ram_block
from sysqcache.saved.proof import Trial
from sysqcache.saved.record import FileIdentity, Method, SavedMachine
from sysqcache.spec.spec import Disk, MachineSpec
from sysqcache.spec.specjson import read_spec

if TYPE_CHECKING:
    from sysqcache.qmp.commands import TbCacheStats
    from sysqcache.spec.engines import Engine

Warn = Callable[[str], None]
Phase = Callable[[str], None]
_AGENT_TIMEOUT: Final = 0.5
_NOTHING_ELSE: Final = Outside()


@dataclasses.dataclass(frozen=True, slots=True)
class Suspended:
    """A machine that was saved.

    :param suspend_s: seconds from stopping the guest to a complete saved state.
    :param wall_s: seconds of the whole command.
    """

    record: SavedMachine
    directory: Path
    suspend_s: float
    wall_s: float

    def to_json(self) -> dict[str, Any]:
        """What `suspend` reports."""
        return {
            "machine": self.record.name,
            "method": str(self.record.method),
            "why": self.record.why,
            "suspend_s": round(self.suspend_s, 4),
            "wall_s": round(self.wall_s, 4),
            "disk_bytes": self.record.disk_bytes,
            "directory": str(self.directory),
        }


def choose(
    wanted: str, spec: MachineSpec, *, plain: bool, outside: Outside = _NOTHING_ELSE
) -> tuple[Method, str]:
    """The method for a machine, and why. Raises :class:`SavedStateError`.

    :param wanted: a method or "auto".
    :param plain: the engine was built without our patches.
    :param outside: what it has besides.
    """
    if outside.unsaved:
        raise SavedStateError(f"{spec.name} can't be saved: {outside.unsaved}")
    writable = [disk for disk in spec.disks if disk.mode is not DiskMode.READ_ONLY]
    kept = [disk for disk in writable if disk.mode is DiskMode.PERSISTENT]
    problems = {
        Method.TEMPLATE: _no_template(kept, outside, plain=plain),
        Method.FILE: "",
        Method.INTERNAL: _no_internal(spec, outside),
    }
    if wanted != "auto":
        method = Method(wanted)
        if problems[method]:
            usable = ", ".join(str(m) for m, problem in problems.items() if not problem)
            raise SavedStateError(
                f"{spec.name} can't be saved by the method {method}: {problems[method]}",
                hint=f"usable: {usable}",
            )
        return method, "asked for"
    if not problems[Method.TEMPLATE]:
        return Method.TEMPLATE, "the fastest: memory is mapped, not read, and can be shared"
    return Method.FILE, f"not a template: {problems[Method.TEMPLATE]}"


def _no_template(kept: Sequence[Disk], outside: Outside, *, plain: bool) -> str:
    if plain:
        return "QEMU without our patches can't map a saved memory"
    if outside.written:
        files = ", ".join(disk.file for disk in outside.written)
        return f"what it writes to {files} (of qemu_args) can't be shared"
    if kept:
        return "what it writes to a persistent disk can't be shared"
    return outside.memory


def _no_internal(spec: MachineSpec, outside: Outside) -> str:
    if outside.written:
        return f"{outside.written[0].file} (of qemu_args) would not be part of it"
    writable = [disk for disk in spec.disks if disk.mode is not DiskMode.READ_ONLY]
    if not writable:
        return "it has no disk to hold the snapshot"
    raw = [d for d in writable if d.mode is DiskMode.PERSISTENT and d.format is DiskFormat.RAW]
    return f"a raw disk holds no snapshots: {raw[0].file}" if raw else ""


def suspend(name: str, wanted: str, warn: Warn, phase: Phase) -> Suspended:
    """Save the running machine ``name`` and end its QEMU.

    Raises :class:`MachineError` and its subclasses; the machine runs on then, unless the
    message says that it ended.
    """
    started = time.monotonic()
    instance = Instance(name)
    with slots.only_one(instance), Machine.attach(name) as machine:
        settle_killed(machine)
        spec = read_spec(instance.file(paths.INSTANCE_SPEC))
        engine = _engine_of(machine)
        outside = look(machine, spec)
        method, why = choose(wanted, spec, plain=engine.plain, outside=outside)
        phase("saving")
        saving = _Saving(machine, spec, engine, outside, method, why)
        saving.may_change = wanted == "auto"
        outlived.remove(machine)
        record, directory = saving.run()
        suspend_s = time.monotonic() - saving.stopped_at
        try:
            phase(LOOKING)
            place_before_end(machine, warn)
            if method is Method.INTERNAL and (problem := outlived.remove(machine)):
                warn(f"what {name} was saved as before is still in its disks: {problem}")
        except KeyboardInterrupt:
            # what is saved must not go on
            interrupts.take()
            warn("interrupted: what was not looked at is kept without its modules")
        machine.quit()
    if method is Method.INTERNAL:
        sealing = time.monotonic()
        record = slots.seal(name)
        suspend_s += time.monotonic() - sealing
    settle(instance)
    instance.update(state=MachineState.SAVED)
    standing.forget(instance)
    slots.sweep(instance)
    _pin(record, warn)
    return Suspended(record, directory, suspend_s, time.monotonic() - started)


def _engine_of(machine: Machine) -> Engine:
    """The engine that a machine runs on."""
    from sysqcache.spec.engines import find_engine, load

    binary = Path(machine.state.argv[0]) if machine.state.argv else None
    found = load(binary.parents[1], machine.state.arch) if binary is not None else None
    return found or find_engine(machine.state.arch)


class _Saving:
    """One machine being saved. :meth:`run` leaves QEMU paused, with nothing more to write."""

    _tag = ""
    """The name of the snapshot, if the disks hold one."""
    mark: standing.Mark | None = None
    """Since the guest stands still."""
    may_change = False
    """Whether another method may be taken when a resume by the first would fail."""

    def __init__(
        self,
        machine: Machine,
        spec: MachineSpec,
        engine: Engine,
        outside: Outside,
        method: Method,
        why: str,
    ) -> None:
        self.machine, self.spec, self.engine, self.outside = machine, spec, engine, outside
        self.method, self.why = method, why
        self.stopped_at = time.monotonic()
        self.instance = machine.instance
        self._overlays = self.instance.file(paths.INSTANCE_OVERLAYS)

    def run(self) -> tuple[SavedMachine, Path]:
        """Save; on any failure the guest goes on, and what was saved before stays."""
        stats = self._stats()
        _ = self.engine.build_id  # reading it takes a moment in which the guest may run
        block = ram_block(self.machine)
        migration.settle(self.machine.qmp)
        one, slot = slots.new_slot(self.instance)
        try:
            with self._trial(slot, block) as trial:
                self._wake_agent()
                idle.wait_until_idle(self.machine.process.cpu_seconds)
                self.stopped_at = time.monotonic()
                if self.method is Method.INTERNAL:
                    self._tag = slots.tag(one)
                mark = standing.Mark.of(self.machine, saving=one, snapshot=self._tag)
                self.mark = standing.stand(self.machine, mark)
                record = self._proved(self._write(one, slot, stats, block), slot, trial)
            return record, slots.publish(self.instance, slot, record)
        except (SysqcacheError, OSError) as error:
            raise self._go_on(slot, error) from error
        except KeyboardInterrupt as error:
            interrupts.take()
            if slots.is_current(self.instance, one):
                # the link was replaced: it is saved, and must not go on besides
                return slots.current(self.spec.name)
            raise Interrupted(self._go_on(slot, MachineBusy("interrupted")).message) from error

    def _wake_agent(self) -> None:
        """Save the guest's agent waiting for a command, not asleep for want of a client."""
        agent = self.machine.agent.keep()
        with contextlib.suppress(GuestCommandError):
            if agent is not None and not agent.sync(_AGENT_TIMEOUT):
                # busy with another client, or not there
                self.machine.agent.close()

    def _stats(self) -> TbCacheStats | None:
        with contextlib.suppress(QmpError):
            return self.machine.stats()
        return None

    @property
    def _unproved(self) -> bool:
        """Whether nobody knows yet that a resume can load what is saved.

        Without ``qemu_args`` the command line is the one that the machine was started with.
        What two machines can't have at a time, a second QEMU can't either.
        """
        return self.outside.plugged and not self.outside.alone

    @property
    def _nodes(self) -> list[str]:
        return snapshot_nodes(self.spec.disks)

    def _trial(self, slot: Path, block: str) -> AbstractContextManager[Trial | None]:
        """A second QEMU for a state of which that has to be found out."""
        if not self._unproved or self.method is Method.INTERNAL:
            return contextlib.nullcontext()
        mapped = not self.engine.plain and not self.outside.memory
        memory = block if mapped else ""
        return proof.trial(self.spec, slot, self.engine, self._overlays, memory)

    def _proved(self, record: SavedMachine, slot: Path, trial: Trial | None) -> SavedMachine:
        """The record, by whose method the state was loaded in a second QEMU, if need be."""
        if not self._unproved or (trial is not None and trial.loads(record)):
            return record
        problem = proof.problem(record, slot, self.engine)
        if problem and self.may_change and record.method is Method.TEMPLATE:
            why = f"not a template: {problem}"
            record = dataclasses.replace(record, method=Method.FILE, why=why)
            problem = proof.problem(record, slot, self.engine)
        if problem:
            raise SavedStateError(f"it can't be resumed by the method {record.method}: {problem}")
        return record

    def _write(self, one: str, slot: Path, stats: TbCacheStats | None, name: str) -> SavedMachine:
        tag = ""
        state, sums, ram = None, None, ("", 0, 0)
        if self.method is Method.INTERNAL:
            tag = self._tag
            migration.snapshot_save(self.machine.qmp, tag, self._nodes)
        else:
            file = slot / slots.STATE
            migration.save_to_file(self.machine.qmp, file)
            file.chmod(0o400)
            sums = ramfile.checksums(file)
            blocks = ramfile.read_blocks(file)
            block = blocks.get(name) or max(blocks.values(), key=lambda b: b.size)
            state, ram = FileIdentity.of(file), (block.name, block.size, block.offset)
        saved = disks.freeze(
            self.spec.disks,
            self._overlays,
            slot,
            self.engine.qemu_img,
            tag=tag,
        )
        return SavedMachine(
            id=one,
            name=self.spec.name,
            method=self.method,
            created=time.time(),
            spec=self.spec,
            engine=self.engine.key,
            build_id=self.engine.build_id,
            fingerprint=stats.fingerprint if stats else "",
            disks=saved,
            packs=_pack_names(stats),
            tag=tag,
            state=state,
            checksums=sums,
            ram=ram,
            disk_bytes=sum(ramfile.allocated(path) for path in slot.iterdir()),
            why=self.why,
            held={str(path): FileIdentity.of(path) for path in self.outside.files},
            alone=self.outside.alone,
        )

    def _go_on(self, slot: Path, error: Exception) -> SysqcacheError:
        """Let the guest run again; the error to be raised, which says what state things are in."""
        shutil.rmtree(slot, ignore_errors=True)
        if self._tag:
            with contextlib.suppress(QmpError, MachineDied):
                migration.snapshot_delete(self.machine.qmp, self._tag, self._nodes)
        text = getattr(error, "message", "") or str(error)
        ran = self.mark is None or self.mark.ran
        try:
            migration.settle(self.machine.qmp)
            if self.mark is not None:
                standing.leave(self.machine, self.mark)
            standing.forget(self.instance)
        except (QmpError, MachineDied):
            then = "the machine does not answer any more"
        else:
            then = "the machine runs on" if ran else "the machine stands still, as before"
        if self.instance.is_saved():
            then += ", and what was saved before is intact"
        if self.method is Method.INTERNAL and isinstance(error, QmpError):
            # QEMU does not say so of a snapshot
            files = [disk.file for disk in self.spec.disks if disk.mode is DiskMode.PERSISTENT]
            text, _ = room.explained(error, [*files, self._overlays], self.spec.memory)
        full = "o space left" in text or getattr(error, "errno", 0) == errno.ENOSPC
        hint = "free some space and try again" if full else ""
        return SavedStateError(f"{self.spec.name} was not saved: {text}; {then}", hint=hint)


def _pack_names(stats: TbCacheStats | None) -> tuple[str, ...]:
    packs = stats.packs if stats is not None else ()
    return tuple(Path(pack.path).stem for pack in packs if pack.status == "mapped")


def _pin(record: SavedMachine, warn: Warn) -> None:
    """Keep the packs of a saved machine; without them it would only be slower."""
    from sysqcache.store.facade import Store

    try:
        with Store.open(paths.store_dir()) as store:
            store.pin(record.name, record.packs)
    except (StoreError, OSError) as error:
        warn(f"compact may remove packs that {record.name} starts warm with: {error}")
