# SPDX-License-Identifier: GPL-2.0-or-later
"""The XML of domains: golden files both ways, and through libvirt's own test driver."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from sysqcache.base.errors import DomainRefused, LibvirtError
from sysqcache.base.types import ArchName, DiskFormat
from sysqcache.libvirt import rewrite
from sysqcache.libvirt.domxml import Document, Edit
from sysqcache.libvirt.facts import DomainFacts, Owner, owner_of

GOLDEN = runpy.run_path(str(Path(__file__).parents[1] / "golden" / "make_domains.py"))
PATHS: rewrite.CachePaths = GOLDEN["PATHS"]
PLAIN: list[Path] = GOLDEN["plain"]()
BY_NAME = pytest.mark.parametrize("path", PLAIN, ids=[path.stem for path in PLAIN])


def enabled_text(path: Path) -> str:
    text: str = GOLDEN["enabled_path"](path).read_text()
    return text


def test_there_are_golden_files() -> None:
    names = {path.stem for path in PLAIN}
    assert names >= {"virt-install-q35", "virt-manager-q35", "pc", "arm64-virt", "own-commandline"}


@BY_NAME
def test_enabling_gives_the_golden_file(path: Path) -> None:
    assert rewrite.enabled(path.read_text(), PATHS) == enabled_text(path)


@BY_NAME
def test_disabling_gives_every_byte_back(path: Path) -> None:
    assert rewrite.disabled(enabled_text(path)) == path.read_text()


@BY_NAME
def test_a_plain_domain_is_left_alone(path: Path) -> None:
    text = path.read_text()
    assert rewrite.find_mark(text) is None
    assert rewrite.disabled(text) == text


@BY_NAME
def test_the_mark_says_what_was_there(path: Path) -> None:
    mark = rewrite.find_mark(enabled_text(path))
    assert mark is not None
    assert mark.emulator == Document(path.read_text()).root.string("devices/emulator")


@BY_NAME
def test_changes_of_others_stay(path: Path) -> None:
    """Memory, a new argument and a new note, made while the cache was on."""
    changed = enabled_text(path).replace("<vcpu placement='static'>", "<vcpu placement='auto'>")
    changed = changed.replace(
        "  </metadata>", '    <n:note xmlns:n="urn:n">here</n:note>\n  </metadata>'
    )
    changed = changed.replace(
        "  <qemu:commandline>\n", "  <qemu:commandline>\n    <qemu:arg value='-S'/>\n"
    )
    plain = rewrite.disabled(changed)
    assert "<vcpu placement='auto'>" in plain
    assert '<n:note xmlns:n="urn:n">here</n:note>' in plain
    assert "<qemu:arg value='-S'/>" in plain
    assert "xmlns:qemu=" in plain
    assert "tb-cache" not in plain
    assert "sysqcache" not in plain


@BY_NAME
def test_no_acpi_there_and_back(path: Path) -> None:
    """An option that QEMU has dropped is kept from libvirt; what the user has of both stays."""
    plain = path.read_text()
    on = rewrite.enabled(plain, PATHS, no_acpi=True)
    block = Document(on).root.find("qemu:capabilities")
    assert block is not None
    assert [child.get("capability") for child in block.children] == ["no-acpi"]
    assert "<qemu:arg value='acpi=off'/>" in on.replace('"', "'")
    assert rewrite.disabled(on) == plain
    mine = "<qemu:arg value='-machine'/>\n    <qemu:arg value='acpi=off'/>"
    other = "  <qemu:capabilities>\n    <qemu:add capability='x'/>\n  </qemu:capabilities>\n"
    start = "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n"
    start += "  <name>a</name>\n  <devices>\n    <emulator>/q</emulator>\n  </devices>\n"
    own = f"{start}  <qemu:commandline>\n    {mine}\n  </qemu:commandline>\n{other}</domain>\n"
    assert rewrite.disabled(rewrite.enabled(own, PATHS, no_acpi=True)) == own
    assert rewrite.disabled(rewrite.enabled(own, PATHS)) == own


@pytest.fixture(scope="module")
def driver() -> Any:
    libvirt = pytest.importorskip("libvirt")
    libvirt.registerErrorHandler(lambda *_: None, None)
    connection = libvirt.open("test:///default")
    yield connection
    connection.close()


def through(driver: Any, xml: str) -> str:
    """What libvirt makes of a definition."""
    domain = driver.defineXML(xml)
    text: str = domain.XMLDesc(2 | 1)
    domain.undefine()
    return text


def as_test_domain(path: Path) -> str:
    """For the test driver, which knows neither QEMU's namespace nor other architectures."""
    text = path.read_text().replace("<domain type='qemu'", "<domain type='test'")
    text = text.replace("arch='aarch64' machine='virt-7.2'", "arch='i686'")
    return re.sub(r"arch='x86_64' machine='[^']*'", "arch='i686'", text)


@BY_NAME
def test_libvirt_itself_goes_there_and_back(driver: Any, path: Path) -> None:
    normal = through(driver, through(driver, as_test_domain(path)))
    on = through(driver, rewrite.enabled(normal, PATHS))
    assert str(PATHS.emulator) in on
    assert rewrite.find_mark(on) is not None
    assert through(driver, rewrite.disabled(on)) == normal


def test_a_domain_without_anything() -> None:
    for bare in (
        "<domain type='qemu'>\n  <name>a</name>\n</domain>\n",
        "<domain type='qemu'><name>a</name><devices/></domain>",
        "<domain type='qemu'>\n  <name>a</name>\n  <devices>\n  </devices>\n</domain>\n",
    ):
        on = rewrite.enabled(bare, PATHS)
        root = Document(on).root
        assert root.string("devices/emulator") == str(PATHS.emulator)
        back = Document(rewrite.disabled(on)).root
        assert [child.name for child in back.children if child.name != "devices"] == ["name"]
        assert back.find("devices/emulator") is None


def test_names_with_commas_reach_qemu_whole() -> None:
    paths = rewrite.CachePaths(*(Path("/a,b") / name for name in ("e", "j", "b", "m", "i")))
    arguments = rewrite.cache_arguments(paths)
    assert "journal=/a,,b/j,boot-set=/a,,b/b" in arguments[1]
    on = rewrite.enabled("<domain type='qemu'>\n  <name>a</name>\n</domain>\n", paths)
    assert "tb-cache" not in rewrite.disabled(on)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no xml",
        "<domain>",
        "<!DOCTYPE d [<!ENTITY a 'b'>]><domain>&a;</domain>",
        "<a>" * 100 + "</a>" * 100,
    ],
)
def test_what_is_no_domain_is_refused(text: str) -> None:
    with pytest.raises(LibvirtError, match="not the XML of a domain"):
        Document(text)


def test_places_are_bytes() -> None:
    document = Document("<d><a x='>'>ä</a><b/></d>")
    a, b = document.root.children
    assert a.text == "ä"
    assert b.inner == b.end
    assert document.apply([Edit(a.inner, a.inner_end, "ö"), document.remove(b)]) == (
        "<d><a x='>'>ö</a></d>"
    )


def test_facts_of_a_domain() -> None:
    path = next(path for path in PLAIN if path.stem == "virt-manager-q35")
    facts = DomainFacts.of(path.read_text())
    assert facts.name == "desk & office"
    assert facts.require_tcg() is ArchName.X86_64
    spec = facts.spec()
    assert [(str(disk.file), disk.format) for disk in spec.disks] == [
        ("/var/lib/libvirt/images/desk & office.qcow2", DiskFormat.QCOW2)
    ]


def test_disks_on_block_devices_are_part_of_the_image() -> None:
    disk = "<disk type='{}' device='{}'><driver name='qemu'/><source {}='{}'/></disk>"
    disks = [
        disk.format("block", "disk", "dev", "/dev/vg/root"),
        disk.format("block", "cdrom", "dev", "/dev/sr0"),
        disk.format("network", "disk", "name", "export"),
        disk.format("file", "disk", "file", "/data.img"),
    ]
    os_type = "<os><type arch='x86_64'>hvm</type></os>"
    text = (
        f"<domain type='qemu'><name>d</name>{os_type}<devices>{''.join(disks)}</devices></domain>"
    )
    assert [str(disk.file) for disk in DomainFacts.of(text).spec().disks] == [
        "/dev/vg/root",
        "/data.img",
    ]


def test_a_kernel_of_its_own_is_part_of_the_image() -> None:
    path = next(path for path in PLAIN if path.stem == "own-commandline")
    spec = DomainFacts.of(path.read_text()).spec()
    assert spec.kernel == Path("/srv/guests/vmlinuz")
    assert spec.initrd == Path("/srv/guests/initrd")


@pytest.mark.parametrize(
    ("kind", "arch", "said"),
    [("kvm", "x86_64", "runs on KVM"), ("xen", "x86_64", "xen"), ("qemu", "m68k", "m68k")],
)
def test_domains_that_have_nothing_to_warm(kind: str, arch: str, said: str) -> None:
    xml = f"<domain type='{kind}'><name>a</name><os><type arch='{arch}'>hvm</type></os></domain>"
    with pytest.raises(DomainRefused, match=said):
        DomainFacts.of(xml).require_tcg()


CAPABILITIES = """<capabilities><host>
<secmodel><model>apparmor</model><doi>0</doi></secmodel>
<secmodel><model>dac</model><doi>0</doi>
<baselabel type='kvm'>+1:+2</baselabel><baselabel type='qemu'>+64055:+994</baselabel></secmodel>
</host></capabilities>"""


def test_who_runs_qemu() -> None:
    assert owner_of(CAPABILITIES, "qemu", "") == Owner(64055, 994)
    assert owner_of(CAPABILITIES, "qemu", "+107:+108") == Owner(107, 108)
    assert owner_of(CAPABILITIES, "qemu", "root:root") == Owner(0, 0)
    with pytest.raises(DomainRefused, match="nobody here"):
        owner_of(CAPABILITIES, "qemu", "no-such-user:root")
