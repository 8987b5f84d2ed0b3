# SPDX-License-Identifier: GPL-2.0-or-later
"""What `sysqcache doctor` says of the store and of machines: what is degraded, and the remedy."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.base.errors import SysqcacheError, brief
from sysqcache.base.types import MachineState
from sysqcache.setup.doctor import Check
from sysqcache.setup.work import free_space

_MIN_FREE: Final = 1_000_000_000
_MIN_DESCRIPTORS: Final = 1024


def checks() -> Iterator[Check]:
    """One for each state in which machines run slower than they could, or can't be used."""
    yield _descriptors()
    yield _space()
    yield from _store()
    yield from _machines()


def _descriptors() -> Check:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= _MIN_DESCRIPTORS:
        return Check("open files", "ok", f"at most {hard}")
    step = f"ulimit -Hn {_MIN_DESCRIPTORS}, or LimitNOFILE= of the service"
    return Check("open files", "warning", f"at most {hard}: packs are left out", step)


def _space() -> Check:
    """Of machines and journals; the cache directory has a check of its own."""
    free, text = free_space(paths.store_dir())
    if free >= _MIN_FREE:
        return Check("space of the store", "ok", text)
    step = "free some space, or sysqcache cache compact --max-bytes N"
    return Check("space of the store", "warning", f"{text}: recording may stop", step)


def _store() -> Iterator[Check]:
    from sysqcache.store.facade import Store

    root = paths.store_dir()
    if not root.exists():
        return
    try:
        with Store.open(root) as store:
            found = store.degraded()
    except (SysqcacheError, OSError) as error:
        step = getattr(error, "hint", "") or "sysqcache cache verify"
        yield Check("blocks", "warning", f"the store can't be used: {brief(error)}", step)
        return
    for text, step in found:
        yield Check("blocks", "warning", text, step)
    if not found:
        yield Check("blocks", "ok", f"the store in {root} is in order")


def _machines() -> Iterator[Check]:
    from sysqcache.machine.instances import Instance, list_instances
    from sysqcache.saved import disks

    for state in list_instances():
        name = f"machine {state.name}"
        if state.state is MachineState.BROKEN:
            step = f"remove {Instance(state.name).directory} if nothing in it is needed"
            yield Check(name, "warning", state.error, step)
        elif state.state is MachineState.DEAD:
            step = "sysqcache list keeps its blocks, sysqcache boot starts it again"
            yield Check(name, "warning", "it was killed together with its controller", step)
        elif state.cache_reason:
            step = f"sysqcache cache why {state.name}"
            yield Check(name, "warning", f"runs without the cache: {state.cache_reason}", step)
        elif text := _saved_problem(state.name):
            yield Check(name, "warning", text, disks.afresh(state.name))


def _saved_problem(name: str) -> str:
    """Why a saved machine can't be resumed, "" when it can or none is saved."""
    from sysqcache.machine.instances import Instance
    from sysqcache.saved import slots

    if not Instance(name).is_saved():
        return ""
    try:
        record, _ = slots.current(name)
    except SysqcacheError as error:
        return error.message
    gone = [disk.file for disk in record.disks if not disk.own and not Path(disk.file).exists()]
    return f"it is saved, and its disk is gone: {gone[0]}" if gone else ""
