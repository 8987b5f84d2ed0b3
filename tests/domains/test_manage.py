# SPDX-License-Identifier: GPL-2.0-or-later
"""Enabling and disabling domains of a real libvirtd; nothing boots."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from daemonhelp import QEMU_UID, Daemon
from domainhelp import Machine, sysqcache

from sysqcache.base import paths
from sysqcache.base.errors import DomainRefused
from sysqcache.libvirt import ask, manage, publish
from sysqcache.libvirt.connect import connect

pytestmark = pytest.mark.qemu


def files_below(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_there_and_back_without_a_trace(machine: Machine) -> None:
    before, files = machine.definition(), files_below(machine.home)
    machine.enable()
    assert machine.definition() != before
    assert machine.status()["enabled"]
    machine.sysqcache("disable", "tiny")
    assert machine.definition() == before
    assert files_below(machine.home) == files


def test_the_last_domain_takes_the_engine_along(
    daemon: Daemon, fresh_home: Path, files: Path
) -> None:
    machine = Machine(daemon, fresh_home, "only")
    machine.define(files)
    before = files_below(fresh_home)
    machine.enable()
    machine.sysqcache("disable", "only")
    assert files_below(fresh_home) == before
    machine.remove()


def test_disabling_twice_says_so(machine: Machine) -> None:
    assert "had no cache" in machine.sysqcache("disable", "tiny")


def test_enabling_twice_brings_the_present_engine(machine: Machine) -> None:
    machine.enable()
    on = machine.definition()
    assert "present engine" in machine.sysqcache("enable", "tiny")
    assert machine.definition() == on


def test_enabling_again_that_fails_changes_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.enable()
    before, state = machine.definition(), machine.folder.read()

    def refused(*_: object) -> None:
        raise DomainRefused("libvirt would not have it")

    monkeypatch.setattr(manage, "_define_reversibly", refused)
    with pytest.raises(DomainRefused, match="would not"):
        manage.enable("tiny", machine.daemon.uri, "others", lambda _: None)
    assert machine.folder.read() == state
    assert machine.definition() == before
    assert publish.emulator(state.engine, "x86_64").exists()


def test_who_may_do_what(machine: Machine) -> None:
    """QEMU's user reads what it maps, writes in one directory, and sees nothing else."""
    machine.enable()
    folder = machine.folder

    def may(test: str, path: Path) -> bool:
        done = subprocess.run(
            ["test", test, path], check=False, user=QEMU_UID, group=QEMU_UID, extra_groups=[]
        )
        return done.returncode == 0

    assert may("-r", folder.boot_set)
    assert may("-x", folder.packs)
    assert may("-w", folder.run)
    assert may("-x", publish.emulator(folder.read().engine, "x86_64"))
    for path in (folder.directory, folder.packs, folder.boot_set, folder.waiting):
        assert not may("-w", path), path
    for path in (folder.waiting, folder.directory / paths.DOMAIN_STATE):
        assert not may("-r", path), path
    stores = paths.libvirt_dir() / paths.LIBVIRT_STORES / folder.uuid
    assert stat.S_IMODE(stores.stat().st_mode) == 0o700


@pytest.mark.parametrize("command", ["enable", "disable"])
def test_a_running_domain_is_refused_with_the_way_out(machine: Machine, command: str) -> None:
    before = machine.definition()
    machine.daemon.virsh("start", "tiny", "--paused")
    said = machine.sysqcache(command, "tiny", code=31)
    assert "is running" in said
    assert "virsh shutdown tiny" in said
    machine.destroy()
    assert machine.definition() == before


SPICE = "<channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("</devices>", f"{SPICE}</devices>", "spicevmc"),
        ("pc-i440fx-10.0", "pc-i440fx-99.0", "pc-i440fx-99.0"),
    ],
    ids=["device", "machine type"],
)
def test_what_the_engine_lacks_is_named(
    machine: Machine, files: Path, old: str, new: str, said: str
) -> None:
    connection = connect(machine.daemon.uri)
    emulator = files / "own" / "bin" / "qemu-system-x86_64"
    text = machine.definition()
    ask.require_support(connection, text, "tiny", emulator)
    assert old in text
    with pytest.raises(DomainRefused, match="can't run tiny") as refused:
        ask.require_support(connection, text.replace(old, new), "tiny", emulator)
    assert said in refused.value.message + refused.value.detail
    connection.close()


def with_arguments(xml: str, *arguments: str) -> str:
    """A domain whose QEMU gets arguments that libvirt does not look at."""
    schema = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'"
    given = "".join(f"<qemu:arg value='{escape(one)}'/>" for one in arguments)
    xml = xml.replace("<domain type='qemu'", f"<domain type='qemu' {schema}")
    return xml.replace("</domain>", f"<qemu:commandline>{given}</qemu:commandline></domain>")


def test_settings_that_the_engine_lacks_are_named(machine: Machine, files: Path) -> None:
    connection = connect(machine.daemon.uri)
    emulator = files / "own" / "bin" / "qemu-system-x86_64"
    disk = '{"driver":"file","filename":"/x","node-name":"n","discard":"unmap"'
    text = with_arguments(
        machine.definition(),
        *("-blockdev", disk + ',"aio":"posix","cache":{"direct":true,"later":1}}'),
        *("-blockdev", '{"driver":"raw","file":{"driver":"rbd","pool":"p","image":"i"}}'),
        *("-netdev", '{"type":"user","id":"u","net":"10.0.0.0/8","speed":1}'),
        *("-device", '{"driver":"virtio-rng-pci","id":"r","addr":"0x9","dice":6}'),
        *("-object", '{"qom-type":"iothread","id":"i","poll-max-ns":1,"turbo":true}'),
        *("-device", "vhost-scsi-pci,wwpn=naa.0"),
    )
    with pytest.raises(DomainRefused, match="lacks 7 of the things") as refused:
        ask.require_support(connection, text, "tiny", emulator)
    assert refused.value.detail.splitlines() == [
        "-blockdev file,aio=posix",
        "-blockdev file,cache.later",
        "-blockdev rbd",
        "-device vhost-scsi-pci",
        "-device virtio-rng-pci,dice",
        "-netdev user,speed",
        "-object iothread,turbo",
    ]
    connection.close()


@pytest.mark.parametrize("way", ["threads", "native", "io_uring"])
def test_every_way_of_input_and_output(machine: Machine, files: Path, way: str) -> None:
    """A domain that asks for one is enabled, and its QEMU starts with it."""
    plain = machine.definition()
    driver = "<driver name='qemu' type='qcow2'"
    assert driver in plain
    machine.redefine(plain.replace(driver, f"{driver} cache='none' io='{way}'"))
    machine.enable()
    machine.daemon.virsh("start", "tiny", "--paused")
    assert machine.state() == "paused"
    machine.destroy()


def test_a_connection_that_may_only_read(machine: Machine) -> None:
    before = machine.definition()
    sysqcache("status", "tiny", "-c", machine.daemon.read_only_uri)
    said = sysqcache("enable", "tiny", "-c", machine.daemon.read_only_uri, code=30)
    assert "may only read" in said
    assert machine.definition() == before
    assert not machine.folder.exists()


def test_a_domain_that_is_not_there(machine: Machine) -> None:
    said = machine.sysqcache("enable", "no-such", code=30)
    assert "no domain 'no-such'" in said
    assert "tiny" in said


def test_a_libvirt_that_is_not_there(home: Path) -> None:
    del home
    nowhere = "qemu+unix:///system?socket=/nowhere"
    for command in ("enable", "disable", "status"):
        said = sysqcache(command, "tiny", "-c", nowhere, code=30)
        assert "can't connect" in said
        assert "is libvirtd running?" in said


def test_a_renamed_domain_keeps_its_cache(machine: Machine) -> None:
    before = machine.definition()
    machine.enable()
    machine.daemon.virsh("domrename", "tiny", "small")
    machine.name = "small"
    assert machine.status()["enabled"]
    machine.sysqcache("disable", "small")
    assert machine.definition() == before.replace("<name>tiny<", "<name>small<")


def test_an_undefined_domain_is_forgotten(machine: Machine) -> None:
    machine.enable()
    folder = machine.folder
    machine.daemon.virsh("undefine", "tiny")
    machine.sysqcache("disable", folder.uuid)
    assert not folder.directory.exists()


def test_a_folder_that_is_gone_is_made_again(machine: Machine) -> None:
    machine.enable()
    machine.folder.remove()
    assert "is missing" in machine.status()["warning"]
    machine.enable()
    assert machine.folder.boot_set.exists()


def test_a_closed_directory_is_named(machine: Machine) -> None:
    before = machine.definition()
    machine.home.chmod(0o700)
    said = machine.sysqcache("enable", "tiny", code=30)
    machine.home.chmod(0o711)
    assert str(QEMU_UID) in said
    assert f"chmod o+x {machine.home}" in said
    assert machine.definition() == before
    assert not machine.folder.exists()
