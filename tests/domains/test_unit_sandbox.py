# SPDX-License-Identifier: GPL-2.0-or-later
"""The watcher in the sandbox of its systemd unit, made without systemd.

What is made here: ReadWritePaths among files that can only be read, no network, the
capabilities, no new privileges. What systemd does with seccomp, and its /dev and /tmp, is not.
"""

from __future__ import annotations

import configparser
import shlex
import subprocess
from pathlib import Path

import pytest
from daemonhelp import Daemon, eventually
from domainhelp import Machine

from sysqcache.base import paths
from sysqcache.libvirt import service

pytestmark = [pytest.mark.vm, pytest.mark.slow]

READ_ONLY = """awk '$5 !~ "^/(proc|sys|dev)(/|$)" {print $5}' /proc/self/mountinfo |
while read -r escaped; do mount -o remount,bind,ro "$(printf %b "$escaped")"; done"""


class Unit(configparser.RawConfigParser):
    """A unit; of an option that occurs several times, all values."""

    def __init__(self, text: str) -> None:
        super().__init__(strict=False)
        self.read_string("\n".join(line for line in text.splitlines() if "Capability" not in line))
        words = [line.partition("=")[2] for line in text.splitlines() if "Capability" in line]
        self.capabilities = " ".join(words).lower().replace("cap_", "+").split()
        self.service = self["Service"]


def sandbox(unit: Unit) -> list[str]:
    """What to put before a command."""
    assert unit.service["ProtectSystem"] == "strict"
    assert unit.service["PrivateNetwork"] == "yes"
    assert unit.service["NoNewPrivileges"] == "yes"
    writable = [shlex.quote(path) for path in shlex.split(unit.service["ReadWritePaths"])]
    privileges = ["--no-new-privs", "--inh-caps=-all"]
    privileges.append(f"--bounding-set={','.join(['-all', *unit.capabilities])}")
    script = [
        "set -e",
        "mount --make-rprivate /",
        *(f"mount --bind {path} {path}" for path in writable),
        READ_ONLY,
        *(f"mount -o remount,bind,rw {path}" for path in writable),
        f'exec setpriv {" ".join(privileges)} "$@"',
    ]
    return ["unshare", "--mount", "--net", "sh", "-c", "\n".join(script), "sh"]


def test_the_sandbox_allows_what_the_watcher_does(
    daemon: Daemon, fresh_home: Path, files: Path
) -> None:
    machine = Machine(daemon, fresh_home, "boxed")
    machine.define(files)
    unit = Unit(service.unit())
    before = unit.service["ExecStartPre"]
    assert before.startswith("+")
    subprocess.run(shlex.split(before[1:]), check=True)
    inside = sandbox(unit)
    forbidden = subprocess.run([*inside, "touch", "/etc/new", "/var/lib/new"], check=False)
    assert forbidden.returncode != 0
    # nothing is enabled yet, so our directory is not there
    assert not paths.libvirt_dir().exists()
    with machine.watched(inside) as watching:
        machine.enable()
        machine.start()
        recorded = machine.status()["blocks"]["recorded"]
        eventually(lambda: watching.looked_after() > recorded - 1000)
        machine.shut_down()
        watching.wait("new blocks")
        last = machine.status()["last_run"]
        assert last["attributed"] > 0.9 * last["recorded"]
        # what was learnt of the kernel is kept for other guests
        assert list((paths.state_dir() / paths.KERNELS).glob("*.json"))
        # the directory goes with the last domain, and comes again
        machine.sysqcache("disable", "boxed")
        assert not paths.libvirt_dir().exists()
        machine.enable()
        machine.start()
        machine.destroy()
        watching.wait("boxed ended", 2)
        assert machine.status()["last_run"]["blocks_new"] > 20_000
        for trouble in ("stays where", "not kept", "not looked", "without their", "packs it had"):
            assert trouble not in watching.text()
    machine.remove()
