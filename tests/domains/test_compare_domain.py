# SPDX-License-Identifier: GPL-2.0-or-later
"""`compare --libvirt`: what is refused, and one comparison of a Debian domain."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemonhelp import Daemon, eventually
from domainhelp import Machine, define_debian
from required import require_image

from sysqcache.libvirt.folder import run_directory


def compare(machine: Machine, *arguments: object, code: int = 0) -> str:
    options = ("--libvirt", machine.name, "-c", machine.daemon.uri, *map(str, arguments))
    done = subprocess.run(
        [sys.executable, "-m", "sysqcache", "compare", *options],
        check=False,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.qemu
def test_what_can_not_be_compared(machine: Machine) -> None:
    assert "has no cache" in compare(machine, code=31)
    machine.enable()
    assert "no command can be run in it" in compare(machine, code=31)
    machine.daemon.virsh("start", "tiny", "--paused")
    assert "is running" in compare(machine, code=31)
    machine.destroy()


ONCE = ("--runs", 1, "--json")


@pytest.fixture
def debian(daemon: Daemon, home: Path, files: Path) -> Iterator[Machine]:
    """The Debian guest as a domain with the cache on."""
    image = require_image("debian12-x86_64")
    machine = Machine(daemon, home, "debian")
    define_debian(machine, files, image)
    machine.enable()
    yield machine
    machine.remove()
    assert daemon.alive()


def power_off_itself(debian: Machine) -> None:
    """A command in the guest ends it."""
    call = {"path": "/usr/bin/systemctl", "arg": ["poweroff"], "capture-output": False}
    asked = json.dumps({"execute": "guest-exec", "arguments": call})
    debian.daemon.virsh("qemu-agent-command", debian.name, asked)
    eventually(lambda: debian.state() == "shut off")


@pytest.mark.vm
@pytest.mark.slow
def test_a_debian_domain_compared(debian: Machine, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    with debian.watched() as watching:
        debian.start()
        # on a busy host a look comes late, and much is recorded after the one before
        eventually(lambda: watching.looked_after() > debian.status()["blocks"]["recorded"] - 1000)
        assert watching.looked_after() > 200_000
        power_off_itself(debian)
        watching.wait("new blocks")
        last = debian.status()["last_run"]
        # nobody pressed the power button
        assert last["attributed"] > 0.9 * last["recorded"]
        # in two parts: neither way is started twice
        saved = "managedsave,managedsave+warm"
        found: dict[str, Any] = json.loads(
            compare(debian, *ONCE, "--html", page, "--ways", f"cold,{saved}")
        )
        ways = {way["way"]: way for way in found["ways"]}
        assert list(ways) == ["cold", "managedsave", "managedsave+warm"]
        assert ways["managedsave+warm"]["hit_rate"] >= 0.92
        assert ways["cold"]["hit_rate"] == 0
        assert ways["managedsave"]["hit_rate"] == 0
        assert all(f'<th scope="row">{way}</th>' in page.read_text() for way in ways)
        found = json.loads(compare(debian, *ONCE, "--ways", "warm"))
        assert [way["way"] for way in found["ways"]] == ["warm"]
        assert found["ways"][0]["ready_hit_rate"] >= 0.92
        assert found["ratios"] == {}
        # neither the domain nor its store saw any of it
        assert debian.status()["last_run"] == last
    assert not run_directory(debian.folder.copy_uuid).exists()
