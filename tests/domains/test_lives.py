# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains of a real libvirtd that start, are saved, go on and end, with the cache on."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from daemonhelp import Daemon, eventually
from domainhelp import Machine

from sysqcache.base import paths
from sysqcache.libvirt import service

pytestmark = [pytest.mark.vm, pytest.mark.slow]


def test_what_a_domain_learns(learnt: tuple[Path, dict[str, Any]]) -> None:
    last = learnt[1]
    assert last["adopted"] == 0
    assert last["blocks_new"] > 20_000
    assert last["attributed"] > 0.9 * last["recorded"]


def test_what_virsh_does_works_as_before_and_warm(warm: Machine) -> None:
    """managedsave, save, restore, snapshots, reset, reboot, block jobs."""
    virsh = warm.daemon.virsh
    with warm.watched() as watching:
        warm.start()
        blocks = warm.status()["blocks"]
        assert blocks["hit_rate"] >= 0.92
        assert not sum(blocks["rejected"].values())
        virsh("managedsave", "tiny")
        watching.wait("new blocks")
        assert warm.status()["last_run"]["hit_rate"] >= 0.92
        assert "is saved" in warm.sysqcache("disable", "tiny", code=31)
        virsh("start", "tiny")
        eventually(lambda: warm.status()["blocks"]["requested"] > 100)
        assert warm.status()["blocks"]["hit_rate"] > 0.9

        saved = warm.disks / "saved"
        virsh("save", "tiny", saved)
        virsh("restore", saved)
        virsh("snapshot-create-as", "tiny", "one")
        virsh("snapshot-revert", "tiny", "one")
        assert warm.state() == "running"

        overlay = f"vda,file={warm.disks / 'overlay.qcow2'}"
        virsh("snapshot-create-as", "tiny", "--disk-only", "--no-metadata", "--diskspec", overlay)
        virsh("blockcommit", "tiny", "vda", "--active", "--pivot", "--wait")
        assert "overlay" not in virsh("domblklist", "tiny")

        serial = warm.disks / "serial.log"
        before = serial.read_bytes().count(b"ready")
        virsh("reset", "tiny")
        eventually(lambda: serial.read_bytes().count(b"ready") > before, 90)
        virsh("reboot", "tiny")
        assert warm.state() == "running"
        warm.destroy()
        eventually(lambda: not warm.status()["followed"])
        assert "one" in warm.sysqcache("disable", "tiny", code=31)
        virsh("snapshot-delete", "tiny", "one")
    warm.sysqcache("disable", "tiny")


def test_a_start_without_a_watcher_is_warm_and_its_journal_waits(warm: Machine) -> None:
    for _ in range(2):
        warm.start()
        assert warm.status()["blocks"]["hit_rate"] > 0.9
        warm.destroy()
    journal = warm.folder.run / paths.DOMAIN_JOURNAL
    assert journal.stat().st_size > 1000
    assert journal.stat().st_mode & 0o777 == 0o600
    with warm.watched() as watching:
        watching.wait("kept the blocks of 1 earlier runs")
    assert not journal.exists()
    assert warm.status()["waiting_journals"] == 0


def test_following_goes_on_when_libvirtd_restarts(machine: Machine, daemon: Daemon) -> None:
    machine.enable()
    with machine.watched() as watching:
        machine.start()
        watching.wait("following tiny")
        daemon.stop()
        watching.wait("libvirt is gone")
        daemon.start()
        watching.wait("watching the domains", 2)
        assert machine.status()["followed"]
        machine.shut_down()
        watching.wait("tiny ended")
        assert machine.status()["last_run"]["blocks_new"] > 20_000
        machine.start()
        watching.wait("following tiny", 2)
        machine.destroy()
        watching.wait("tiny ended", 2)


def test_the_hook_does_without_a_watcher(machine: Machine, daemon: Daemon) -> None:
    hooks = daemon.directory / "etc" / "hooks" / "qemu.d"
    hooks.mkdir(exist_ok=True)
    hook = hooks / "sysqcache"
    hook.write_text(service.hook())
    hook.chmod(0o755)
    machine.enable()
    daemon.stop()  # it looks for hooks when it starts
    daemon.start()
    try:
        machine.start()
        eventually(lambda: machine.status()["followed"])
        machine.shut_down()
        eventually(lambda: machine.status()["runs"] == 1)
        assert machine.status()["last_run"]["blocks_new"] > 20_000
    finally:
        hook.unlink()
        daemon.stop()
        daemon.start()


def test_a_domain_that_is_undefined_while_it_runs(machine: Machine) -> None:
    machine.enable()
    with machine.watched() as watching:
        machine.start()
        watching.wait("following tiny")
        machine.daemon.virsh("undefine", "tiny")
        machine.destroy()
        watching.wait("tiny ended")
    machine.sysqcache("disable", machine.folder.uuid)
    assert not machine.folder.directory.exists()


def test_cycles_leave_no_trace(machine: Machine) -> None:
    virsh, before = machine.daemon.virsh, machine.definition()
    files = sorted(path for path in machine.home.rglob("*") if "state" not in path.parts)
    for _ in range(int(os.environ.get("SYSQCACHE_TEST_CYCLES", "1"))):
        machine.enable()
        virsh("start", "tiny")
        virsh("managedsave", "tiny")
        virsh("start", "tiny")
        machine.destroy()
        machine.sysqcache("disable", "tiny")
        assert machine.definition() == before
        (machine.disks / "serial.log").unlink()
        left = sorted(path for path in machine.home.rglob("*") if "state" not in path.parts)
        assert left == files


def free_port() -> int:
    """Libvirt's own choice could be that of another libvirtd of this host."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_migration_to_another_libvirtd_of_this_host(warm: Machine, second: Daemon) -> None:
    with warm.watched():
        warm.start()
        address = f"tcp://127.0.0.1:{free_port()}"
        warm.daemon.virsh("migrate", "--live", "--unsafe", "tiny", second.uri, address)
        assert warm.state() == "shut off"
        assert "running" in second.virsh("domstate", "tiny")
        answer = second.virsh("qemu-monitor-command", "tiny", '{"execute":"x-query-tb-cache"}')
        assert '"mode":"on"' in answer.replace(" ", "")
        second.virsh("destroy", "tiny")
        eventually(lambda: not warm.status()["followed"])
