# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots inside the disks of a running machine, and the deletion of saved ones."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sysqcache.base import interrupts, paths
from sysqcache.base.errors import (
    MachineError,
    QmpError,
    SavedStateError,
    StoreError,
)
from sysqcache.base.interrupts import Interrupted
from sysqcache.base.types import MachineState
from sysqcache.machine.instances import Instance
from sysqcache.machine.running import Machine
from sysqcache.qmp import blocknodes, migration
from sysqcache.qmp.blocknodes import BlockNode
from sysqcache.saved import outlived, room, slots, snapshotnotes, standing, tags
from sysqcache.saved.goback import go_back
from sysqcache.saved.identity import MachineIdentity
from sysqcache.saved.killed import settle_killed
from sysqcache.saved.tags import check_tag


def _disks(machine: Machine) -> list[BlockNode]:
    """Disks that are written to, however they came: all have to hold the snapshot."""
    name = machine.state.name
    found = sorted(
        (disk for disk in blocknodes.disks(machine.qmp) if disk.writable), key=lambda d: d.name
    )
    # those of vm.yaml first: the first holds the memory
    found.sort(key=lambda disk: not disk.name.startswith("disk"))
    none = [disk.file for disk in found if not disk.holds_snapshots]
    if none or not found:
        why = (
            f"only qcow2 holds them, and it writes to {', '.join(none)}"
            if none
            else "it has no disk that is written to"
        )
        raise SavedStateError(
            f"{name} can't have snapshots: {why}", hint="sysqcache suspend --method file"
        )
    return found


@contextlib.contextmanager
def _alone(name: str) -> Iterator[Machine]:
    """The running machine, for one command at a time; what a killed one began is ended."""
    with slots.only_one(Instance(name)), Machine.attach(name) as machine:
        settle_killed(machine)
        yield machine


def save(name: str, tag: str) -> float:
    """Save the running machine; seconds that it stood still.

    A snapshot of the same name is replaced when the new one is complete. Raises
    :class:`MachineError`; what was saved before is intact then.
    """
    check_tag(tag)
    with _alone(name) as machine:
        disks = _disks(machine)
        new = tags.next_name(disks, tag)
        old = [one for one, _ in tags.others(disks, tag)]
        identity = MachineIdentity.of(machine)
        try:
            seconds = _save(machine, new, disks)
            disks = _disks(machine)
            _note(machine, new, disks, identity)
        finally:
            standing.forget(machine.instance)
        for one in old:
            migration.snapshot_delete(machine.qmp, one, _holding(disks, one))
        return seconds


def _save(machine: Machine, new: str, disks: Sequence[BlockNode]) -> float:
    started = time.monotonic()
    nodes = [disk.name for disk in disks]
    with standing.standing(machine, new):
        try:
            migration.snapshot_save(machine.qmp, new, nodes)
        except KeyboardInterrupt:
            interrupts.take()
            migration.snapshot_delete(machine.qmp, new, nodes)
            raise Interrupted(f"{machine.state.name} was not saved: interrupted") from None
        except QmpError as error:
            files = [disk.files[0] for disk in disks if disk.files]
            text, hint = room.explained(error, files, _memory(machine))
            raise SavedStateError(
                f"{machine.state.name} was not saved: {text}; it runs on, and what was saved "
                "before is intact",
                hint=hint,
            ) from error
    return time.monotonic() - started


def _memory(machine: Machine) -> int:
    return int(machine.qmp.execute("query-memory-size-summary")["base-memory"])


def _note(
    machine: Machine, name: str, disks: Sequence[BlockNode], identity: MachineIdentity
) -> None:
    """Without the note a load is not compared first; it is undone all the same if it fails."""
    entry = _entry(disks, name)
    known = {str(one["name"]) for disk in disks for one in disk.snapshots}
    with contextlib.suppress(OSError):
        snapshotnotes.keep(machine.instance, entry, identity, known)


def _entry(disks: Sequence[BlockNode], name: str) -> Mapping[str, Any]:
    """The snapshot of that name which has the memory."""
    found = [one for disk in disks if (one := disk.snapshot(name))]
    return max(found, key=lambda one: int(one["vm-state-size"]))


def _holding(disks: Sequence[BlockNode], name: str) -> list[str]:
    return [disk.name for disk in disks if disk.snapshot(name)]


def load(name: str, tag: str, *, unchecked: bool = False) -> float:
    """Take the running machine back; seconds that it stood still.

    :param unchecked: also to a snapshot of which nobody knows whether it was this machine.
    Raises :class:`MachineError`: nothing was touched, or the machine has ended and its disks
    are as they were; the message says which.
    """
    check_tag(tag)
    with _alone(name) as machine:
        disks = _disks(machine)
        known = tags.tags(disks)
        if tag not in known:
            raise _unknown(name, tag, list(known))
        same = _require_same(machine, tag, _entry(disks, known[tag]), unchecked=unchecked)
        started = time.monotonic()
        # who could not begin runs on; who failed has ended
        with standing.standing(machine):
            go_back(machine, known[tag], disks, known=same)
        return time.monotonic() - started


def _require_same(machine: Machine, tag: str, entry: Mapping[str, Any], *, unchecked: bool) -> bool:
    """Compare what QEMU would compare only when the disks have gone back already.

    :param unchecked: go on without, where nobody wrote down which machine it was.
    :return: whether anything was known to compare.
    """
    name = machine.state.name
    if not entry["vm-state-size"]:
        raise SavedStateError(f"{name} can't go back to {tag!r}: it holds no memory")
    saved = snapshotnotes.find(machine.instance, entry)
    if saved is None and not unchecked:
        raise SavedStateError(
            f"nobody wrote down which machine {tag!r} was saved of (not by sysqcache, or not "
            f"here): whether {name} is like it can't be known; nothing was touched, {name} runs on",
            hint="--unchecked goes back all the same; if QEMU refuses then, the machine ends with "
            "its disks as they are now, and another CPU it may not notice",
        )
    wrong = saved.differences(MachineIdentity.of(machine)) if saved is not None else []
    if wrong:
        raise SavedStateError(
            f"{name} can't go back to {tag!r}: that was another machine; nothing was touched, "
            f"{name} runs on",
            hint="boot it as it was when it was saved, then load",
            detail="\n".join(wrong),
        )
    return saved is not None


def _unknown(name: str, tag: str, known: list[str]) -> SavedStateError:
    return SavedStateError(
        f"{name} has no snapshot {tag!r}",
        hint=f"there are: {', '.join(known)}" if known else f"sysqcache snapshot save {name} {tag}",
    )


def list_all(name: str) -> dict[str, Any]:
    """Snapshots of a running machine, and what `suspend` saved of it."""
    instance = Instance(name)
    state = instance.current()
    found: list[dict[str, Any]] = []
    if state.process.alive():
        with Machine.attach(name) as machine:
            found = _rows(machine)
    saved = None
    if instance.is_saved():
        record, directory = slots.current(name)
        saved = {
            "method": str(record.method),
            "date": _iso(record.created),
            "disk_bytes": record.disk_bytes,
            "directory": str(directory),
            "running": slots.users(directory),
        }
    return {"machine": name, "snapshots": found, "saved": saved}


def _rows(machine: Machine) -> list[dict[str, Any]]:
    disks = _disks(machine)
    return [_row(machine, tag, _entry(disks, name)) for tag, name in tags.tags(disks).items()]


def _row(machine: Machine, tag: str, one: Mapping[str, Any]) -> dict[str, Any]:
    identity = snapshotnotes.find(machine.instance, one)
    keys = ("machine", "cpu", "vcpus", "memory")
    return {
        "tag": tag,
        "date": _iso(one["date-sec"]),
        "vm_state_bytes": one["vm-state-size"],
        "belongs_to": {key: getattr(identity, key) for key in keys} if identity else None,
    }


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def delete(name: str, tag: str) -> None:
    """Delete a snapshot of a running machine, or with tag "" what `suspend` saved.

    Raises :class:`MachineError`, :class:`SavedStateError` while machines run from it.
    """
    if not tag:
        _forget(name)
        return
    check_tag(tag)
    with _alone(name) as machine:
        disks = _disks(machine)
        known = tags.others(disks, tag)
        if not known:
            raise _unknown(name, tag, list(tags.tags(disks)))
        try:
            for one, _ in known:
                migration.snapshot_delete(machine.qmp, one, _holding(disks, one))
        except QmpError as error:
            raise SavedStateError(f"{name}: {error.message}") from error


def _forget(name: str) -> None:
    from sysqcache.store.facade import Store

    record = None
    with contextlib.suppress(SavedStateError):  # it can be forgotten though it can't be read
        record, _ = slots.current(name)
    slots.forget(name)
    if record is not None:
        outlived.forget(record)
    instance = Instance(name)
    with contextlib.suppress(MachineError):
        if instance.read().state is MachineState.SAVED:
            instance.update(state=MachineState.STOPPED)
    with contextlib.suppress(StoreError, OSError), Store.open(paths.store_dir()) as store:
        store.unpin(name)
