# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots inside the disks of a running machine, and the deletion of saved ones."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from sysqcache.base import paths
from sysqcache.base.errors import MachineError, QmpError, SavedStateError, StoreError, UsageError
from sysqcache.base.types import DiskFormat, DiskMode
from sysqcache.machine.instances import Instance
from sysqcache.machine.running import Machine
from sysqcache.qmp import commands, migration
from sysqcache.saved import slots
from sysqcache.saved.origin import snapshot_nodes
from sysqcache.spec.specjson import read_spec


def _nodes(machine: Machine) -> list[str]:
    """Disks that are written to: all have to hold the snapshot."""
    spec = read_spec(machine.instance.file(paths.INSTANCE_SPEC))
    writable = [d for d in spec.disks if d.mode is not DiskMode.READ_ONLY]
    raw = [d for d in writable if d.mode is DiskMode.PERSISTENT and d.format is DiskFormat.RAW]
    if raw or not writable:
        why = (
            f"a raw disk holds none: {raw[0].file}" if raw else "it has no disk that is written to"
        )
        raise SavedStateError(
            f"{spec.name} can't have snapshots: {why}", hint="sysqcache suspend --method file"
        )
    return snapshot_nodes(spec.disks)


def _check_tag(tag: str) -> None:
    # QEMU takes numbers for ids of snapshots
    if not tag or tag.isdecimal() or len(tag) > 100 or "/" in tag:
        raise UsageError(f"{tag!r} can't be the name of a snapshot", hint="use letters")


def save(name: str, tag: str) -> float:
    """Save the running machine; seconds that it stood still.

    A snapshot of the same name is replaced. Raises :class:`MachineError`.
    """
    _check_tag(tag)
    with Machine.attach(name) as machine:
        nodes = _nodes(machine)
        known = [one["name"] for one in migration.snapshots(machine.qmp, nodes[0])]
        if tag in known:
            migration.snapshot_delete(machine.qmp, tag, nodes)
        return _stopped(machine, lambda: migration.snapshot_save(machine.qmp, tag, nodes))


def load(name: str, tag: str) -> float:
    """Take the running machine back; seconds that it stood still. Raises :class:`MachineError`."""
    _check_tag(tag)
    with Machine.attach(name) as machine:
        nodes = _nodes(machine)
        known = [one["name"] for one in migration.snapshots(machine.qmp, nodes[0])]
        if tag not in known:
            raise _unknown(name, tag, known)
        return _stopped(machine, lambda: migration.snapshot_load(machine.qmp, tag, nodes))


def _stopped(machine: Machine, work: Any) -> float:
    started = time.monotonic()
    was_running = commands.query_status(machine.qmp).running
    commands.stop(machine.qmp)
    try:
        work()
    except QmpError as error:
        raise SavedStateError(f"{machine.state.name}: {error.message}; it runs on") from error
    finally:
        if was_running:
            commands.cont(machine.qmp)
    return time.monotonic() - started


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
            found = [_row(one) for one in migration.snapshots(machine.qmp, _nodes(machine)[0])]
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


def _row(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "tag": one["name"],
        "date": _iso(one["date-sec"]),
        "vm_state_bytes": one["vm-state-size"],
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
    _check_tag(tag)
    with Machine.attach(name) as machine:
        nodes = _nodes(machine)
        known = [one["name"] for one in migration.snapshots(machine.qmp, nodes[0])]
        if tag not in known:
            raise _unknown(name, tag, known)
        try:
            migration.snapshot_delete(machine.qmp, tag, nodes)
        except QmpError as error:
            raise SavedStateError(f"{name}: {error.message}") from error


def _forget(name: str) -> None:
    from sysqcache.base.types import MachineState
    from sysqcache.store.facade import Store

    slots.forget(name)
    instance = Instance(name)
    with contextlib.suppress(MachineError):
        if instance.read().state is MachineState.SAVED:
            instance.update(state=MachineState.STOPPED)
    with contextlib.suppress(StoreError, OSError), Store.open(paths.store_dir()) as store:
        store.unpin(name)
