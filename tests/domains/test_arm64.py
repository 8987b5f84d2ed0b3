# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain of another architecture."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemonhelp import Daemon, eventually
from domainhelp import Machine, copy_kernel, typed
from required import require_image

pytestmark = [pytest.mark.vm, pytest.mark.slow]


@pytest.fixture
def arm(daemon: Daemon, home: Path, files: Path) -> Iterator[Machine]:
    """The tiny arm64 guest on virt, defined and shut off."""
    image = require_image("tiny-arm64")
    own = daemon.directory / "arm64"
    own.mkdir()
    copy_kernel(image, own)
    machine = Machine(daemon, home, "arm")

    def virt(xml: str) -> str:
        xml = xml.replace("arch='x86_64' machine='pc'", "arch='aarch64' machine='virt'")
        xml = xml.replace(f"{files}/kernel", f"{own}/kernel")
        xml = xml.replace(f"{files}/initrd", f"{own}/initrd")
        xml = xml.replace("system-x86_64", "system-aarch64").replace("ttyS0", "ttyAMA0")
        model = "<cpu mode='custom' match='exact'><model>cortex-a57</model></cpu>"
        xml = xml.replace("<features><acpi/><apic/></features>", model)
        return typed(machine, xml)

    machine.define(files, virt)
    yield machine
    machine.remove()
    shutil.rmtree(own)
    assert daemon.alive()


def test_an_arm64_domain_starts_warm(arm: Machine) -> None:
    before = arm.definition()
    arm.enable()
    with arm.watched() as watching:
        arm.start()
        recorded = arm.status()["blocks"]["recorded"]
        assert recorded > 20_000
        eventually(lambda: watching.looked_after() > recorded - 1000)
        arm.power_off_itself()
        watching.wait("new blocks")
        last = arm.status()["last_run"]
        assert last["attributed"] > 0.9 * last["recorded"]
        arm.start()
        blocks = arm.status()["blocks"]
        assert blocks["hit_rate"] >= 0.92
        assert not sum(blocks["rejected"].values())
        arm.power_off_itself()
        watching.wait("new blocks", 2)
    arm.sysqcache("disable", "arm")
    assert arm.definition() == before
