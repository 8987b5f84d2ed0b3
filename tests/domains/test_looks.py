# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks into the guests of domains: by hand, and into one that ends without a warning."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from daemonhelp import Daemon, eventually
from domainhelp import Machine, typed

from sysqcache.base.errors import MachineError
from sysqcache.guestmap.session import GuestSession

pytestmark = [pytest.mark.vm, pytest.mark.slow]


@pytest.fixture
def typing(daemon: Daemon, home: Path, files: Path) -> Iterator[Machine]:
    """A domain whose guest does what is typed, with the cache on."""
    machine = Machine(daemon, home, "typing")
    machine.define(files, partial(typed, machine))
    machine.enable()
    yield machine
    machine.remove()
    assert daemon.alive()


def map_(machine: Machine, code: int = 0) -> str:
    """What "sysqcache map" says of a domain."""
    options = ("--libvirt", machine.name, "-c", machine.daemon.uri, "--json")
    done = subprocess.run(
        [sys.executable, "-m", "sysqcache", "map", *options],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_a_guest_is_mapped_and_nobody_notices(typing: Machine) -> None:
    assert "is not running" in map_(typing, 31)
    typing.start()
    events = subprocess.Popen(
        ["virsh", "-c", typing.daemon.uri, "qemu-monitor-event", "typing", "--loop"],
        stdout=subprocess.PIPE,
    )
    found = json.loads(map_(typing))
    assert found["kernel"]["release"]
    assert "sh" in {process["comm"] for process in found["processes"]}
    # the way of other machines would end libvirtd here
    with pytest.raises(MachineError, match="libvirt's") as refused:
        GuestSession.open(typing.folder.introspection)
    assert "--libvirt" in refused.value.hint
    assert typing.daemon.alive()
    assert typing.state() == "running"
    events.terminate()
    assert b"event" not in events.communicate()[0]


def test_a_guest_that_ends_by_itself(typing: Machine) -> None:
    """Nobody presses its power button: the looks while it ran have to do."""
    with typing.watched() as watching:
        typing.start()
        recorded = typing.status()["blocks"]["recorded"]
        eventually(lambda: watching.looked_after() > recorded - 1000)
        typing.type("for i in 1 2 3; do find / -xdev | sort | md5sum; done; dmesg | gzip | wc -c")
        eventually(lambda: typing.status()["blocks"]["recorded"] > recorded + 200)
        looked = watching.looked_after()
        typing.power_off_itself()
        watching.wait("new blocks")
        last = typing.status()["last_run"]
        assert last["recorded"] > looked  # no look saw its end
        # what ran after the last look is placed by content alone
        assert last["attributed"] > 0.9 * last["recorded"]
