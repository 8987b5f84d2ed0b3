# SPDX-License-Identifier: GPL-2.0-or-later
"""Comparing domains: the copy's definition, ratios and JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from sysqcache.compare.domains import DomainResult, DomainSample, DomainWay
from sysqcache.errors import DomainRefused
from sysqcache.libvirt.copies import DomainCopy
from sysqcache.libvirt.domxml import Document
from sysqcache.libvirt.facts import Owner
from sysqcache.libvirt.rewrite import CachePaths

DOMAINS = Path(__file__).parents[1] / "golden" / "domains"
PATHS = CachePaths(*(Path("/f") / name for name in ("engine", "none", "set", "q1", "q2")))


def copy_of(name: str) -> DomainCopy:
    plain = (DOMAINS / f"{name}.xml").read_text()
    return DomainCopy(Path("/f"), "a-compare", "u-u", plain, PATHS, Owner(1, 1), Path("qemu-img"))


@pytest.mark.parametrize("cached", [True, False])
def test_the_copy_is_another_domain_with_the_same_devices(cached: bool) -> None:
    root = Document(copy_of("virt-manager-q35").xml(cached=cached)).root
    assert root.string("name") == "a-compare"
    assert root.string("uuid") == "u-u"
    assert root.string("devices/emulator") == "/f/engine"
    source, driver = root.find("devices/disk/source"), root.find("devices/disk/driver")
    assert source is not None
    assert driver is not None
    assert source.get("file") == "/f/disk0.qcow2"
    assert driver.get("type") == "qcow2"
    block = root.find("qemu:commandline")
    assert block is not None
    values = [argument.get("value") for argument in block.children]
    assert any("mode=read-only" in value for value in values) is cached
    assert not any("journal=" in value for value in values)
    plain = Document(copy_of("virt-manager-q35").plain).root.find("devices")
    copied = root.find("devices")
    assert plain is not None
    assert copied is not None
    assert [child.name for child in copied.children] == [child.name for child in plain.children]


def test_disks_that_are_no_files_are_refused() -> None:
    with pytest.raises(DomainRefused, match="no file"):
        copy_of("pc").fresh_disks()


def sample(way: DomainWay, number: int, ready: float, first: float) -> DomainSample:
    start = 0.31 if way is DomainWay.WARM else 0.3
    return DomainSample(way, number, start, ready, first, 1.0, 2.0, 0.9, 0.8)


def test_ratios_within_rounds() -> None:
    samples = []
    for number, slow in enumerate((1.0, 2.0, 4.0)):
        samples += [
            sample(DomainWay.COLD, number, 20 * slow, 8 * slow),
            sample(DomainWay.WARM, number, 15 * slow, 4 * slow),
            sample(DomainWay.SAVED, number, 1 * slow, 5 * slow),
            sample(DomainWay.SAVED_WARM, number, 0.5 * slow, 2 * slow),
        ]
    found = DomainResult("a", "true", 3, samples, {"cores": 2}).to_json()
    assert found["ratios"] == {
        "warm/cold ready": 0.75,
        "warm/cold first task": 0.5,
        "managedsave+warm/managedsave ready": 0.5,
        "managedsave+warm/managedsave first task": 0.4,
        "managedsave+warm/cold ready": 0.025,
    }
    assert found["start_delay_s"] == pytest.approx(0.01)
    assert [way["way"] for way in found["ways"]] == list(DomainWay)
    assert found["ways"][0]["ready_s"] == {"median": 40.0, "min": 20.0, "max": 80.0}
