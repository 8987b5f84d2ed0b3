# SPDX-License-Identifier: GPL-2.0-or-later
"""A copy of a domain that is measured in its place: its disks behind overlays, its firmware's
variables in a file of its own.

The domain itself is neither started nor changed.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from sysqcache.base.errors import DomainRefused
from sysqcache.libvirt.domxml import Document, Edit, Element
from sysqcache.libvirt.facts import Owner, disk_elements
from sysqcache.libvirt.rewrite import CachePaths, enabled, measured_arguments
from sysqcache.machine.launch.overlay import create_overlay

_VARIABLES: Final = "nvram"


@dataclasses.dataclass(frozen=True, slots=True)
class DomainCopy:
    """A copy in ``directory``, which QEMU's user ``owner`` may write to.

    ``no_acpi`` as in :func:`.rewrite.enabled`.
    """

    directory: Path
    name: str
    uuid: str
    plain: str
    paths: CachePaths
    owner: Owner
    qemu_img: Path
    no_acpi: bool = False

    def xml(self, *, cached: bool) -> str:
        """Its definition, with the cache or without."""
        arguments = measured_arguments(self.paths, cached=cached)
        xml = enabled(self.plain, self.paths, arguments, no_acpi=self.no_acpi)
        return _renamed(xml, self)

    def fresh_disks(self) -> None:
        """New overlays over the domain's disks, and the variables of its firmware as they are.

        Raises :class:`DiskError`, OSError.
        """
        variables, own = _variables(Document(self.plain).root), self.directory / _VARIABLES
        own.unlink(missing_ok=True)
        if variables and Path(variables).exists():
            shutil.copyfile(variables, own)
            self._give(own)
        for number, (file, kind) in enumerate(_sources(Document(self.plain).root)):
            overlay = _overlay(self.directory, number)
            overlay.unlink(missing_ok=True)
            self._give(create_overlay(Path(file), kind, overlay, self.qemu_img))

    def put_aside(self, target: Path) -> None:
        """Keep the overlays as they are now."""
        target.mkdir()
        for file in (*self.directory.glob("disk*.qcow2"), *self.directory.glob(_VARIABLES)):
            shutil.copyfile(file, target / file.name)

    def bring_back(self, source: Path) -> None:
        """The overlays as they were put aside."""
        for kept in source.iterdir():
            shutil.copyfile(kept, self.directory / kept.name)
            self._give(self.directory / kept.name)

    def _give(self, path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, self.owner.uid, self.owner.gid)


def _variables(root: Element) -> str:
    """The file with the variables of a domain's UEFI firmware, "" when it has none."""
    source = root.find("os/nvram/source")
    return source.get("file") if source is not None else root.string("os/nvram").strip()


def _own_variables(root: Element, path: Path) -> list[Edit]:
    nvram, source = root.find("os/nvram"), root.find("os/nvram/source")
    if source is not None:
        return [Edit(source.start, source.end, f"<source file={quoteattr(str(path))}/>")]
    if nvram is None or not _variables(root):
        return []
    return [Edit(nvram.inner, nvram.inner_end, escape(str(path)))]


def _overlay(directory: Path, number: int) -> Path:
    return directory / f"disk{number}.qcow2"


def _sources(root: Element) -> list[tuple[str, str]]:
    """File and format of each disk. Raises :class:`DomainRefused` for others than files."""
    found = []
    for disk in disk_elements(root):
        source, driver = disk.find("source"), disk.find("driver")
        file = source.get("file") if source is not None else ""
        if not file or disk.find("readonly") is not None:
            raise DomainRefused(
                f"{root.string('name')} has a disk that is no file: it can't be compared",
                hint="only disks in files can be put behind overlays",
            )
        found.append((file, driver.get("type", "raw") if driver is not None else "raw"))
    return found


def _renamed(xml: str, copy: DomainCopy) -> str:
    """Name and UUID of the copy, overlays in place of disks."""
    document = Document(xml)
    root = document.root
    named, uuid = root.find("name"), root.find("uuid")
    edits = _own_variables(root, copy.directory / _VARIABLES)
    if named is not None:
        edits.append(Edit(named.inner, named.inner_end, escape(copy.name)))
    if uuid is not None:
        edits.append(Edit(uuid.inner, uuid.inner_end, copy.uuid))
    for number, disk in enumerate(disk_elements(root)):
        source, driver = disk.find("source"), disk.find("driver")
        assert source is not None
        file = quoteattr(str(_overlay(copy.directory, number)))
        edits.append(Edit(source.start, source.end, f"<source file={file}/>"))
        if driver is not None:
            edits.append(document.remove(driver))
        edits.append(Edit(disk.inner, disk.inner, "<driver name='qemu' type='qcow2'/>"))
    return document.apply(edits)
