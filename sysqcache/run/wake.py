# SPDX-License-Identifier: GPL-2.0-or-later
"""The few words of QMP that a run needs: let a machine go on that was loaded, count its blocks.

The client for all else speaks with asyncio, whose import takes as long as the load.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any, Final

from sysqcache.base.errors import SavedStateError
from sysqcache.machine.launch.process import QemuProcess

CHANNEL: Final = "qmp0"
_TIMEOUT: Final = 60.0
_HELLO: Final = b'{"execute": "qmp_capabilities"}'
_GO_ON: Final = b'{"execute": "cont"}'
_COUNTED: Final = "counted"
_COUNTERS: Final = b'{"execute": "query-tb-cache", "id": "counted"}'
_SHORT: Final = 2.0
_FAILED: Final = ("failed", "cancelled")


def let_go_on(qmp: socket.socket, process: QemuProcess) -> None:
    """Wait until a saved state is loaded, and let the guest run.

    QEMU was started with ``migration.x-events``, so that it tells of the load's end.
    Raises :class:`LaunchError`, :class:`SavedStateError` when the state can't be loaded.
    """
    qmp.settimeout(_TIMEOUT)
    try:
        qmp.sendall(_HELLO)
        for message in _messages(qmp):
            status = message.get("data", {}).get("status")
            if message.get("event") != "MIGRATION":
                continue
            if status == "completed":
                qmp.sendall(_GO_ON)
                return
            if status in _FAILED:
                break
    except OSError:
        pass  # it hung up, or takes for ever
    if process.wait(1.0) is None:
        raise SavedStateError("the template can't be resumed: QEMU does not load it")
    raise process.launch_error()


def recorded(qmp: socket.socket) -> int:
    """How many blocks a machine has recorded; 0 when nobody can tell."""
    qmp.settimeout(_SHORT)
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        qmp.sendall(_COUNTERS)
        for message in _messages(qmp):
            if message.get("id") == _COUNTED:
                return int(message.get("return", {}).get("recorded", 0))
    return 0


def _messages(qmp: socket.socket) -> Iterator[dict[str, Any]]:
    """What QEMU says, one object a line, until it hangs up."""
    said = b""
    while data := qmp.recv(65536):
        *whole, said = (said + data).split(b"\n")
        for line in whole:
            if line.strip():
                yield json.loads(line)
