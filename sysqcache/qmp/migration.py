# SPDX-License-Identifier: GPL-2.0-or-later
"""Migration of a machine into a file and out of it; internal snapshots of its disks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sysqcache.base import interrupts
from sysqcache.base.errors import MachineError, QmpError
from sysqcache.qmp.client import QmpClient
from sysqcache.qmp.commands import cont, query_status
from sysqcache.qmp.jobs import run_job

_POLL: Final = 0.001
_SLOWEST_POLL: Final = 0.1
TIMEOUT: Final = 600.0
_CHANNELS: Final = 2
"""Threads that move pages; each moves many in one system call, a lone stream one by one."""
_PARAMETERS: Final = {"multifd-channels": _CHANNELS, "max-bandwidth": 1 << 40}
"""QEMU's own limit of 128 MiB/s is meant for networks."""
SAVE: Final = "sysqcache-save"
LOAD: Final = "sysqcache-load"
DELETE: Final = "sysqcache-delete"
"""Ids of jobs; a command that is killed leaves them to the next one."""
_AT_REST: Final = ("none", "completed", "failed", "cancelled")


def save_to_file(qmp: QmpClient, file: Path, *, timeout: float = TIMEOUT) -> None:
    """Write a stopped machine into ``file``, guest memory at fixed places.

    QEMU is in the state ``postmigrate`` then. Raises :class:`QmpError`; the machine can go
    on after that.
    """
    with _mapped_ram(qmp):
        qmp.execute("migrate", {"uri": f"file:{file}"})
        _await(qmp, timeout)


def load_from_file(qmp: QmpClient, file: Path, *, timeout: float = TIMEOUT) -> None:
    """Read a machine that was started with ``-incoming defer``. Raises :class:`QmpError`."""
    with _mapped_ram(qmp):
        qmp.execute("migrate-incoming", {"uri": f"file:{file}"})
        _await(qmp, timeout)


@contextlib.contextmanager
def _mapped_ram(qmp: QmpClient) -> Iterator[None]:
    """Memory at fixed places of the file, for one migration: snapshots can't have it."""
    _set_capabilities(qmp, True)
    try:
        qmp.execute("migrate-set-parameters", _PARAMETERS)
        yield
    finally:
        # QEMU may have ended, and that is what the caller has to hear of
        with contextlib.suppress(MachineError):
            _set_capabilities(qmp, False)


def _set_capabilities(qmp: QmpClient, state: bool) -> None:
    capabilities = [{"capability": name, "state": state} for name in ("mapped-ram", "multifd")]
    qmp.execute("migrate-set-capabilities", {"capabilities": capabilities})


def _await(qmp: QmpClient, timeout: float) -> None:
    deadline, pause = time.monotonic() + timeout, _POLL
    while True:
        interrupts.check()
        answer: Mapping[str, Any] = qmp.execute("query-migrate")
        match answer.get("status"):
            case "completed":
                return
            case "failed" | "cancelled":
                reason = answer.get("error-desc", "QEMU gave no reason")
                raise QmpError(f"the machine's state could not be moved: {reason}")
        if time.monotonic() > deadline:
            raise QmpError(f"moving the machine's state took longer than {timeout:g} s")
        time.sleep(pause)
        pause = min(pause * 1.5, _SLOWEST_POLL)


def settle(qmp: QmpClient, *, timeout: float = 30.0) -> None:
    """Clear away what a command that was killed left: a migration that runs, its capabilities,
    a machine that it paused.

    Raises :class:`QmpError` when the migration can't be ended.
    """
    deadline = time.monotonic() + timeout
    asked = False
    while (status := qmp.execute("query-migrate").get("status", "none")) not in _AT_REST:
        if not asked:
            qmp.execute("migrate_cancel")
            asked = True
        if time.monotonic() > deadline:
            raise QmpError(f"a migration that another command began does not end: {status}")
        time.sleep(_POLL)
    # QEMU 10.0 ends at a snapshot that is saved with them
    _set_capabilities(qmp, False)
    if query_status(qmp).state in ("postmigrate", "finish-migrate"):
        cont(qmp)


def keep_disks_off(qmp: QmpClient) -> None:
    """A machine that is moved in does not take its disks before it runs."""
    capability = {"capability": "late-block-activate", "state": True}
    qmp.execute("migrate-set-capabilities", {"capabilities": [capability]})


def require_movable(qmp: QmpClient) -> None:
    """Raise :class:`QmpError` with QEMU's reasons when it can neither be saved nor loaded."""
    if reasons := qmp.execute("query-migrate").get("blocked-reasons"):
        raise QmpError("; ".join(reasons))


def snapshot_save(qmp: QmpClient, tag: str, nodes: Sequence[str]) -> None:
    """Save a machine inside its disks, its memory in the first of ``nodes``.

    Raises :class:`QmpError`; no snapshot is left then.
    """
    arguments = {"tag": tag, "vmstate": nodes[0], "devices": list(nodes)}
    run_job(qmp, "snapshot-save", SAVE, arguments, timeout=TIMEOUT)


def snapshot_load(qmp: QmpClient, tag: str, nodes: Sequence[str]) -> None:
    """Go back to a snapshot, whose memory is in the first of ``nodes``. Raises :class:`QmpError`.

    The disks may have gone back then while the guest is neither the old nor the new one, and
    the job stays to tell that.
    """
    arguments = {"tag": tag, "vmstate": nodes[0], "devices": list(nodes)}
    run_job(qmp, "snapshot-load", LOAD, arguments, timeout=TIMEOUT, keep_failed=True)


def snapshot_delete(qmp: QmpClient, tag: str, nodes: Sequence[str]) -> None:
    """Remove a snapshot from all ``nodes``. Raises :class:`QmpError`."""
    arguments = {"tag": tag, "devices": list(nodes)}
    run_job(qmp, "snapshot-delete", DELETE, arguments, timeout=TIMEOUT)


def snapshot_disks(qmp: QmpClient, tag: str, nodes: Sequence[str]) -> None:
    """A snapshot of what all disks hold, without memory, or of none. Raises :class:`QmpError`."""
    kind = "blockdev-snapshot-internal-sync"
    actions = [{"type": kind, "data": {"device": node, "name": tag}} for node in nodes]
    qmp.execute("transaction", {"actions": actions}, timeout=TIMEOUT)
