# SPDX-License-Identifier: GPL-2.0-or-later
"""What the XML of a domain says about it, as far as it concerns the cache."""

from __future__ import annotations

import contextlib
import dataclasses
import grp
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sysqcache.base.errors import DomainRefused
from sysqcache.base.types import ArchName, DiskFormat, DiskMode
from sysqcache.libvirt.domxml import Document, Element
from sysqcache.spec.spec import Disk, MachineSpec

_KVM_HINT: Final = "its code runs on the processor itself: there is nothing to warm"


@dataclasses.dataclass(frozen=True, slots=True)
class DomainFacts:
    """A domain: ``kind`` is its type, ``disks`` are files and devices with their formats,
    ``label`` is the user and group that it demands for its QEMU, or "".
    """

    name: str
    uuid: str
    kind: str
    arch: str
    machine: str
    kernel: str
    initrd: str
    disks: tuple[tuple[str, str], ...]
    label: str = ""

    @classmethod
    def of(cls, xml: str) -> DomainFacts:
        """From its XML. Raises :class:`LibvirtError`."""
        root = Document(xml).root
        system = root.find("os/type")
        return cls(
            name=root.string("name"),
            uuid=root.string("uuid"),
            kind=root.get("type"),
            arch=system.get("arch") if system is not None else "",
            machine=system.get("machine") if system is not None else "",
            kernel=root.string("os/kernel"),
            initrd=root.string("os/initrd"),
            disks=tuple(_disks(root)),
            label=_label(root),
        )

    def require_tcg(self) -> ArchName:
        """Its architecture, if it is a machine that QEMU translates.

        Raises :class:`DomainRefused` with the reason.
        """
        if self.kind == "kvm":
            raise DomainRefused(f"{self.name} runs on KVM", hint=_KVM_HINT)
        if self.kind != "qemu":
            raise DomainRefused(f"{self.name} is a machine of type {self.kind!r}, not of QEMU")
        try:
            return ArchName(self.arch)
        except ValueError:
            known = ", ".join(ArchName)
            raise DomainRefused(
                f"{self.name} is a machine of architecture {self.arch}",
                hint=f"the engine can be built for {known}",
            ) from None

    def spec(self) -> MachineSpec:
        """The machine for those who read its image: its files, nothing of its devices."""
        return MachineSpec(
            name=self.name,
            arch=ArchName(self.arch),
            machine=self.machine,
            cpu="",
            memory=0,
            vcpus=1,
            image_id=image_id(self.uuid),
            source=Path("/"),
            kernel=Path(self.kernel) if self.kernel else None,
            initrd=Path(self.initrd) if self.initrd else None,
            disks=tuple(
                Disk(Path(file), DiskFormat(kind), DiskMode.PERSISTENT) for file, kind in self.disks
            ),
        )


def image_id(uuid: str) -> str:
    """The name under which the store knows what a domain boots."""
    return f"libvirt-{uuid}"


def disk_elements(root: Element) -> list[Element]:
    """The disks of a domain; CDs are left out."""
    devices = root.find("devices")
    found = [] if devices is None else devices.all("disk")
    return [disk for disk in found if disk.get("device", "disk") == "disk"]


def _disks(root: Element) -> list[tuple[str, str]]:
    """Path and format of the disks in files and on block devices."""
    found = []
    for disk in disk_elements(root):
        source, driver = disk.find("source"), disk.find("driver")
        where = {"file": "file", "block": "dev"}.get(disk.get("type"))
        if where is None:
            continue
        file = source.get(where) if source is not None else ""
        kind = driver.get("type", "raw") if driver is not None else "raw"
        if file and kind in tuple(DiskFormat):
            found.append((file, kind))
    return found


def _label(root: Element) -> str:
    for label in root.all("seclabel"):
        if label.get("model") == "dac":
            return label.string("label")
    return ""


@dataclasses.dataclass(frozen=True, slots=True)
class Owner:
    """The user and group that QEMU runs as."""

    uid: int
    gid: int


def owner_of(capabilities: str, kind: str, label: str) -> Owner:
    """Who runs the QEMU of a domain.

    :param capabilities: XML of the host's capabilities.
    :param kind: the domain's type.
    :param label: what the domain itself demands, or "".
    """
    host = Document(capabilities).root.find("host")
    for model in host.all("secmodel") if host is not None else ():
        if model.string("model") != "dac":
            continue
        for base in model.all("baselabel"):
            if base.get("type") == kind:
                label = label or base.text.strip()
    user, _, group = label.partition(":")
    if not user:  # no driver that changes users: QEMU runs as whoever runs libvirt
        return Owner(os.geteuid(), os.getegid())
    uid = _number(user, lambda name: pwd.getpwnam(name).pw_uid)
    gid = _number(group or user, lambda name: grp.getgrnam(name).gr_gid)
    return Owner(uid, gid)


def _number(text: str, lookup: Callable[[str], int]) -> int:
    """A label's part: "+107", a name, or a number that is nobody's name."""
    if text.startswith("+"):
        return int(text[1:])
    with contextlib.suppress(KeyError):
        return lookup(text)
    try:
        return int(text)
    except ValueError:
        raise DomainRefused(f"QEMU shall run as {text!r}, who is nobody here") from None
