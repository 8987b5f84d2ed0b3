# SPDX-License-Identifier: GPL-2.0-or-later
"""Comparing domains: the copy's definition, ratios and JSON."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sysqcache.base.errors import DomainRefused, UsageError
from sysqcache.compare.figures import Sample
from sysqcache.compare.page import page
from sysqcache.compare.result import DOMAINS, Result
from sysqcache.compare.ways import DomainWay, named
from sysqcache.libvirt.copies import DomainCopy
from sysqcache.libvirt.domxml import Document
from sysqcache.libvirt.facts import Owner
from sysqcache.libvirt.rewrite import CachePaths

DEFINITIONS = Path(__file__).parents[1] / "golden" / "domains"
PATHS = CachePaths(*(Path("/f") / name for name in ("engine", "none", "set", "q1", "q2")))


def copy_of(name: str) -> DomainCopy:
    plain = (DEFINITIONS / f"{name}.xml").read_text()
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


@pytest.mark.parametrize(
    "form",
    [
        "<nvram template='/usr/VARS.fd'>{}</nvram>",
        "<nvram type='file' format='raw'><source file='{}'/></nvram>",
    ],
)
def test_the_copy_has_variables_of_its_own(tmp_path: Path, form: str) -> None:
    """What its firmware writes is not written to the domain's."""
    variables = tmp_path / "a_VARS.fd"
    variables.write_bytes(b"as they are")
    plain = copy_of("virt-manager-q35").plain
    plain = plain.replace("</os>", f"{form.format(variables)}</os>", 1)
    plain = re.sub("<disk .*?</disk>", "", plain, flags=re.DOTALL)
    folder = tmp_path / "copy"
    folder.mkdir()
    owner = Owner(os.getuid(), os.getgid())
    copy = DomainCopy(folder, "c", "u-u", plain, PATHS, owner, Path("/no/disks"))
    copy.fresh_disks()
    assert str(variables) not in copy.xml(cached=True)
    assert f"{folder}/nvram" in copy.xml(cached=True)
    (folder / "nvram").write_bytes(b"other")
    copy.put_aside(tmp_path / "aside")
    copy.fresh_disks()
    assert (folder / "nvram").read_bytes() == b"as they are"
    copy.bring_back(tmp_path / "aside")
    assert (folder / "nvram").read_bytes() == b"other"
    assert variables.read_bytes() == b"as they are"


def test_disks_that_are_no_files_are_refused() -> None:
    with pytest.raises(DomainRefused, match="no file"):
        copy_of("pc").fresh_disks()


def sample(way: DomainWay, number: int, ready: float, first: float) -> Sample:
    start = 0.31 if way is DomainWay.WARM else 0.3
    return Sample(way, number, ready, first, 1.0, 2.0, 0.9, start_s=start, ready_hit_rate=0.8)


def samples_of(*ways: DomainWay) -> list[Sample]:
    """Three rounds on a host that gets slower."""
    values = {
        DomainWay.COLD: (20, 8),
        DomainWay.WARM: (15, 4),
        DomainWay.SAVED: (1, 5),
        DomainWay.SAVED_WARM: (0.5, 2),
    }
    return [
        sample(way, number, slow * values[way][0], slow * values[way][1])
        for number, slow in enumerate((1.0, 2.0, 4.0))
        for way in ways
    ]


def result(
    name: str, task: str, host: dict[str, object], ways: tuple[DomainWay, ...] = tuple(DomainWay)
) -> Result:
    samples = samples_of(*ways)
    return Result(name, task, 3, host, ENGINE, ways, samples=samples, subject=DOMAINS)


def test_ratios_within_rounds() -> None:
    found = result("a", "true", {"cores": 2}).to_json()
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


def test_what_some_ways_tell() -> None:
    """Neither ratios nor the delay of a start without the ways that they are of."""
    ways = (DomainWay.WARM, DomainWay.SAVED_WARM)
    found = result("a", "true", {}, ways).to_json()
    assert [way["way"] for way in found["ways"]] == list(ways)
    assert found["ratios"] == {}
    assert found["start_delay_s"] is None


HOST: dict[str, object] = {"cpu": "a <fast> CPU", "cores": 2, "kernel": "6.1"}
ENGINE = {"version": "10.0.13", "key": "10.0.13-abc", "build_id": "00"}


def test_the_page_of_a_domain() -> None:
    text = page(result("<d>", "make <all>", HOST))
    assert text.count("<figure>") == 4
    for way in DomainWay:
        assert f'<th scope="row">{way}</th>' in text
    assert "ready after 30.0 s instead of 40.0 s" in text
    assert "+10 ms" in text
    assert "managedsave+warm/managedsave first task" in text
    assert "10.0.13-abc" in text
    for escaped in ("&lt;d&gt;", "make &lt;all&gt;", "a &lt;fast&gt; CPU"):
        assert escaped in text
    assert "<d>" not in text
    ids = re.findall(r'id="([^"]*)"', text)
    assert len(ids) == len(set(ids))


def test_the_page_of_some_ways() -> None:
    ways = (DomainWay.WARM,)
    text = page(result("a", "true", HOST, ways))
    assert "instead of" not in text
    assert "Ratios</caption>" not in text
    assert "1 ways" not in text


def test_ways_of_a_domain_by_name() -> None:
    assert named("managedsave+warm, cold", tuple(DomainWay)) == (
        DomainWay.COLD,
        DomainWay.SAVED_WARM,
    )
    assert named("", tuple(DomainWay)) == tuple(DomainWay)
    with pytest.raises(UsageError, match="no such way: template"):
        named("cold,template", tuple(DomainWay))


def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sysqcache", "compare", *arguments],
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--libvirt", "a", "--ways", "template"), "there are: cold, warm, managedsave"),
        (("--libvirt", "a", "--html", "/nowhere/a.html"), "--html can't be written"),
        (("--libvirt", "a", "--set", "memory=1GiB"), "--set changes a VM.yaml"),
        (("--libvirt", "a", "vm.yaml"), "or --libvirt DOMAIN"),
        (("vm.yaml", "-c", "test:///default"), "--connect belongs to --libvirt"),
    ],
)
def test_bad_usage_of_compare(arguments: tuple[str, ...], said: str) -> None:
    done = compare(*arguments)
    assert done.returncode == UsageError.exit_code
    assert said in done.stderr
