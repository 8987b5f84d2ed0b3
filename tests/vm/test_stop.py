# SPDX-License-Identifier: GPL-2.0-or-later
"""Stopping machines whose QMP sockets others hold, and machines that have powered off."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machinehelp import boot, report, stored_blocks, sysqcache

from sysqcache.base import paths
from sysqcache.base.sockets import connect_unix
from sysqcache.machine.instances import ForeignProcess, Instance
from sysqcache.machine.launch.process import ProcessId

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("x86_engine", "tiny_image", "own_state")]


@pytest.fixture(autouse=True)
def nothing_left(own_state: Path) -> Iterator[None]:
    yield
    state = Instance("tiny").read()
    ForeignProcess(state.process, Instance("tiny").file("log")).signal(signal.SIGKILL)


@contextlib.contextmanager
def held(*names: str) -> Iterator[None]:
    """Other clients hold these sockets, and say nothing."""
    with contextlib.ExitStack() as stack:
        for name in names:
            client: socket.socket = connect_unix(Instance("tiny").file(name), 10.0)
            stack.enter_context(client)
            assert b"QMP" in client.recv(4096)
        yield


@pytest.mark.parametrize("name", [paths.INSTANCE_QMP, paths.INSTANCE_QMP_INTROSPECT])
def test_one_socket_is_held(name: str) -> None:
    boot("--detach")
    with held(name):
        assert report("status", "tiny")["qemu_state"] == "running"
        stopped = report("stop", "tiny")
    assert stopped["ended_by"] == "guest"
    assert stopped["blocks"]["requested"] > 0
    assert stored_blocks() > 10_000


def test_both_sockets_are_held() -> None:
    boot("--detach")
    process = Instance("tiny").read().process
    with held(paths.INSTANCE_QMP, paths.INSTANCE_QMP_INTROSPECT):
        refused = sysqcache("stop", "tiny", code=16)
        assert "sysqcache stop tiny --force" in refused.stderr
        assert process.alive()
        assert report("stop", "tiny", "--force")["ended_by"] == "signal"
    assert not process.alive()
    # SIGTERM lets QEMU end its journal
    assert stored_blocks() > 10_000
    assert report("list")["machines"][0]["state"] == "stopped"


def test_a_qemu_that_hangs() -> None:
    boot("--detach")
    process = Instance("tiny").read().process
    os.kill(process.pid, signal.SIGSTOP)
    assert report("stop", "tiny", "--force")["ended_by"] == "kill"
    assert not process.alive()


def test_a_number_used_again_is_no_reason_to_kill() -> None:
    me = ProcessId.of(os.getpid())
    assert me is not None
    boot("--detach", "--cache", "off")
    other = ProcessId(me.pid, me.start + 1)
    ForeignProcess(other, Instance("tiny").file("log")).signal(signal.SIGKILL)
    time.sleep(0.1)
    sysqcache("stop", "tiny", "--force")
