# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains with a display, as virt-install and virt-manager make them."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemonhelp import Daemon, eventually
from domainhelp import Machine

from sysqcache.libvirt.follow import peer

DESK = """
    <controller type='usb' model='qemu-xhci' ports='15'/>
    <interface type='user'><model type='e1000e'/></interface>
    <input type='tablet' bus='usb'/>
    <graphics type='vnc' port='-1' autoport='yes'{more}><listen type='address'/></graphics>
    <sound model='ich9'/>
    <audio id='1' type='none'/>
    <video><model type='{video}'/></video>
    <memballoon model='virtio'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>"""


def desk(xml: str, more: str = "", video: str = "virtio") -> str:
    """The domain as virt-install would have made it."""
    xml = xml.replace("<controller type='usb' model='none'/>", "").replace("'pc'", "'q35'")
    return xml.replace("\n  </devices>", DESK.format(more=more, video=video))


@pytest.fixture
def with_display(daemon: Daemon, home: Path, files: Path) -> Iterator[Machine]:
    machine = Machine(daemon, home, "desk")
    machine.define(files, desk)
    yield machine
    machine.remove()
    assert daemon.alive()


def greeting(machine: Machine) -> bytes:
    """What the display says first to whoever connects."""
    host, _, number = machine.daemon.virsh("vncdisplay", machine.name).strip().partition(":")
    with socket.create_connection((host or "127.0.0.1", 5900 + int(number)), 10) as viewer:
        return viewer.recv(12)


def seccomp_modes(pid: int) -> set[str]:
    """The mode of each thread: 2 is a filter."""
    modes = set()
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        lines = status.read_text().splitlines()
        modes |= {line.split()[1] for line in lines if line.startswith("Seccomp:")}
    return modes


@pytest.mark.vm
@pytest.mark.slow
def test_a_display_and_the_sandbox_and_a_warm_start(with_display: Machine) -> None:
    machine = with_display
    machine.enable()
    with machine.watched() as watching:
        machine.start()
        process = peer(machine.folder.introspection)
        assert process is not None
        line = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
        assert line[line.index("-sandbox") + 1].startswith("on,")
        assert "resourcecontrol=deny" in line[line.index("-sandbox") + 1]
        assert line[line.index("-vnc") + 1].startswith("127.0.0.1:")
        assert any("virtio-vga" in argument for argument in line)
        assert greeting(machine) == b"RFB 003.008\n"
        recorded = machine.status()["blocks"]["recorded"]
        assert recorded > 20_000
        eventually(lambda: watching.looked_after() > recorded - 1000)
        machine.shut_down()
        watching.wait("new blocks")
        last = machine.status()["last_run"]
        assert last["blocks_new"] > 20_000
        assert last["attributed"] > 0.9 * last["recorded"]

        machine.start()
        process = peer(machine.folder.introspection)
        assert process is not None
        blocks = machine.status()["blocks"]
        assert blocks["hit_rate"] >= 0.92
        assert not sum(blocks["rejected"].values())
        # every thread, those that the cache has started as well
        assert seccomp_modes(process.pid) == {"2"}
        assert greeting(machine) == b"RFB 003.008\n"
        machine.destroy()


NETWORKS = "".join(
    f"<interface type='user'><model type='{model}'/></interface>"
    for model in ("e1000", "e1000e", "rtl8139", "pcnet", "virtio", "vmxnet3", "i82550")
)


@pytest.mark.qemu
def test_the_firmware_of_devices_is_there(machine: Machine) -> None:
    """A device whose file is missing ends QEMU at its start; so does a display without keys."""
    plain = machine.definition()
    machine.redefine(plain.replace("\n  </devices>", f"{NETWORKS}\n  </devices>"))
    machine.enable()
    enabled = machine.definition()
    for video in ("vga", "cirrus", "vmvga", "virtio", "bochs", "ramfb"):
        screen = f"<graphics type='vnc' keymap='de'/><video><model type='{video}'/></video>"
        machine.redefine(enabled.replace("\n  </devices>", f"{screen}\n  </devices>"))
        machine.daemon.virsh("start", "tiny", "--paused")
        assert machine.state() == "paused", video
        machine.destroy()


def refused(machine: Machine) -> str:
    """What is said when the cache is refused; nothing changed."""
    before = machine.definition()
    files = sorted(machine.home.rglob("*"))
    said = machine.sysqcache("enable", machine.name, code=31)
    assert machine.definition() == before
    assert sorted(machine.home.rglob("*")) == files
    assert not machine.folder.exists()
    return said


@pytest.mark.qemu
def test_spice_is_refused_by_name(machine: Machine, daemon: Daemon) -> None:
    """libvirt takes no SPICE for an emulator that has none: it was defined before that."""
    spice = "<graphics type='spice' autoport='yes'/><video><model type='qxl'/></video>"
    stored = daemon.directory / "etc" / "qemu" / "tiny.xml"
    text = stored.read_text()
    daemon.stop()
    stored.write_text(text.replace("</devices>", f"{spice}</devices>"))
    daemon.start()
    try:
        said = refused(machine)
    finally:
        daemon.stop()
        stored.write_text(text)
        daemon.start()
    assert "spice" in said
    assert "virsh edit tiny" in said
    assert "vnc instead of spice" in said


@pytest.mark.qemu
def test_what_a_display_lacks_is_refused(machine: Machine, files: Path, tmp_path: Path) -> None:
    plain = machine.definition()
    keymap = "<graphics type='vnc' keymap='xx'/>"
    machine.redefine(plain.replace("\n  </devices>", f"{keymap}\n  </devices>"))
    said = refused(machine)
    assert "can't show the display of tiny" in said
    assert "'xx'" in said
    machine.redefine(plain)
    locked = "<graphics type='vnc' passwd='secret'/>"
    machine.redefine(plain.replace("\n  </devices>", f"{locked}\n  </devices>"))
    if has_passwords(files / "own" / "bin" / "qemu-system-x86_64", tmp_path):
        machine.enable()
    else:
        assert "DES" in refused(machine)


def has_passwords(engine: Path, directory: Path) -> bool:
    """One that was built without a library of ciphers has none."""
    display = f"unix:{directory}/vnc,password=on"
    done = subprocess.run(
        [engine, "-machine", "none", "-vnc", display, "-qmp", "stdio"],
        input=b'{"execute":"qmp_capabilities"}{"execute":"quit"}',
        check=False,
        capture_output=True,
    )
    return done.returncode == 0
