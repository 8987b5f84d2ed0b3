# SPDX-License-Identifier: GPL-2.0-or-later
"""A tiny domain, and sysqcache's commands on it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

from daemonhelp import QEMU_UID, Daemon, eventually

from sysqcache.base import paths
from sysqcache.libvirt.folder import DomainFolder
from sysqcache.spec.catalog import ImagePaths
from sysqcache.spec.engines import Engine

_XML = """<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>256</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{files}/kernel</kernel>
    <initrd>{files}/initrd</initrd>
    <cmdline>console=ttyS0 quiet no_timer_check</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <devices>
    <emulator>{files}/own/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{disks}/disk.qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <serial type='file'><source path='{disks}/serial.log'/></serial>
  </devices>
</domain>
"""


_DEBIAN = """
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>"""


COMMAND = (sys.executable, "-m", "sysqcache", "libvirt")
SERIAL = "<serial type='file'><source path='{disks}/serial.log'/></serial>"
TYPED = """<serial type='unix'>
      <source mode='bind' path='{disks}/serial.sock'/>
      <log file='{disks}/serial.log'/>
    </serial>"""


def definition(name: str, files: Path, disks: Path) -> str:
    """A domain; its UUID is the same in all tests, so that one may use what another learnt."""
    uuid = uuid5(NAMESPACE_DNS, name)
    return _XML.format(name=name, uuid=uuid, files=files, disks=disks)


def copy_kernel(image: ImagePaths, directory: Path) -> None:
    """Put a guest's kernel and initial RAM disk where QEMU's user can read them."""
    assert image.kernel is not None
    assert image.initrd is not None
    shutil.copyfile(image.kernel, directory / "kernel")
    shutil.copyfile(image.initrd, directory / "initrd")


def own_files(directory: Path, image: ImagePaths, engine: Engine) -> None:
    """Put what a domain consists of where QEMU's user can read it."""
    directory.mkdir(mode=0o755)
    copy_kernel(image, directory)
    shutil.copytree(engine.dir, directory / "own")


def define_debian(machine: Machine, files: Path, image: ImagePaths) -> None:
    """Define the Debian guest, with 1 GiB and the guest agent's channel.

    :param files: of the tiny domain; its emulator is used.
    """
    machine.define(files)
    assert image.disk is not None
    copy_kernel(image, machine.disks)
    # libvirt gives a domain's disk to QEMU's user: not the one that others use
    shutil.copyfile(image.disk, machine.disks / "disk.qcow2")
    os.chown(machine.disks / "disk.qcow2", QEMU_UID, QEMU_UID)
    xml = machine.definition().replace(f"{files}/kernel", f"{machine.disks}/kernel")
    xml = xml.replace(f"{files}/initrd", f"{machine.disks}/initrd").replace("262144", "1048576")
    xml = xml.replace("console=ttyS0 quiet", "root=/dev/vda rw console=ttyS0")
    machine.redefine(xml.replace("\n  </devices>", _DEBIAN))


def typed(machine: Machine, xml: str) -> str:
    """A domain into which a test can type."""
    old, new = (text.format(disks=machine.disks) for text in (SERIAL, TYPED))
    assert old in xml
    return xml.replace(old, new)


def sysqcache(*arguments: object, code: int = 0) -> str:
    """Run "sysqcache libvirt"; its output, or what it says on stderr if it shall fail."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


class Machine:
    """The domain ``name`` of a test."""

    def __init__(self, daemon: Daemon, home: Path, name: str) -> None:
        self.daemon, self.home, self.name = daemon, home, name
        self.disks = home / f"disks-{name}"
        self.folder = DomainFolder("")

    def define(self, files: Path, change: Callable[[str], str] = lambda xml: xml) -> None:
        """Define it, with a disk of its own; ``change`` makes another domain of the XML."""
        self.disks.mkdir()
        os.chown(self.disks, QEMU_UID, QEMU_UID)
        qemu_img = files / "own" / "bin" / "qemu-img"
        disk = self.disks / "disk.qcow2"
        subprocess.run([qemu_img, "create", "-q", "-f", "qcow2", disk, "64M"], check=True)
        self.redefine(change(definition(self.name, files, self.disks)))
        # the first definition is not what libvirt makes of it when it reads it again
        self.redefine(self.definition())
        self.folder = DomainFolder(self.daemon.virsh("domuuid", self.name).strip())

    @property
    def store(self) -> Path:
        """Where it keeps its blocks."""
        return paths.libvirt_dir() / paths.LIBVIRT_STORES / self.folder.uuid

    def redefine(self, xml: str) -> None:
        """Define it as ``xml``."""
        self.daemon.virsh("define", self.file("domain.xml", xml))
        (self.home / "domain.xml").unlink()

    def file(self, name: str, text: str) -> Path:
        """A file with a definition."""
        path = self.home / name
        path.write_text(text)
        return path

    def definition(self) -> str:
        """What the next start is made from."""
        return self.daemon.virsh("dumpxml", "--inactive", "--security-info", self.name)

    def state(self) -> str:
        """As virsh says it."""
        return self.daemon.virsh("domstate", self.name).strip()

    def sysqcache(self, *arguments: object, code: int = 0) -> str:
        """One of our commands on this libvirt; what it printed."""
        return sysqcache(*arguments, "--connect", self.daemon.uri, code=code)

    def enable(self, *arguments: object) -> None:
        """Give it the cache."""
        self.sysqcache("enable", self.name, *arguments)

    def status(self) -> dict[str, Any]:
        """As JSON."""
        found: dict[str, Any] = json.loads(self.sysqcache("status", self.name, "--json"))
        return found

    def start(self) -> None:
        """Start it and wait until the guest is ready."""
        log = self.disks / "serial.log"
        log.unlink(missing_ok=True)
        self.daemon.virsh("start", self.name)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until the guest is ready."""
        log = self.disks / "serial.log"
        eventually(lambda: log.exists() and b"sysqcache: ready" in log.read_bytes(), 90)

    def destroy(self) -> None:
        """Pull the plug."""
        self.daemon.virsh("destroy", self.name)

    def type(self, line: str) -> None:
        """Type a line into the guest's shell, if its serial line is :data:`TYPED`."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.disks / "serial.sock"))
            connection.sendall(line.encode() + b"\n")
            time.sleep(0.2)  # what is not read yet would be lost with the connection

    def power_off_itself(self) -> None:
        """Let the guest end by itself: nobody presses its power button."""
        self.type("poweroff -f")
        eventually(lambda: self.state() == "shut off")

    def shut_down(self) -> None:
        """Press the power button until the guest has noticed."""

        def is_off() -> bool:
            self.daemon.virsh("shutdown", self.name, code=None)
            return self.state() == "shut off"

        eventually(is_off)

    @contextlib.contextmanager
    def watched(self, inside: Sequence[str] = ()) -> Iterator[Watching]:
        """With a watcher beside it; ``inside`` is put before its command."""
        with (self.home / "watch.log").open("wb") as log:
            process = subprocess.Popen(
                [*inside, *COMMAND, "watch", "-c", self.daemon.uri],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        watching = Watching(self.home / "watch.log")
        try:
            watching.wait("watching the domains")
            yield watching
            assert process.poll() is None, watching.text()
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, watching.text()

    def remove(self) -> None:
        """The domain, and whatever a test left of it."""
        for command in (
            ("destroy", self.name),
            ("undefine", self.name, "--managed-save", "--snapshots-metadata"),
        ):
            self.daemon.virsh(*command, code=None)
        if self.folder.exists():
            self.sysqcache("disable", self.folder.uuid)
        shutil.rmtree(self.disks)


class Watching:
    """What a watcher said."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def text(self) -> str:
        """All of it."""
        return self._log.read_text()

    def wait(self, said: str, times: int = 1) -> None:
        """Wait until it said something so many times."""
        eventually(lambda: self.text().count(said) >= times)

    def looked_after(self) -> int:
        """How many blocks the guest had recorded when it was last looked into."""
        found = re.findall(r"looked into \S+ after ([0-9,]+) blocks", self.text())
        return int(found[-1].replace(",", "")) if found else 0
