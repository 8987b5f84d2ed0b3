# SPDX-License-Identifier: GPL-2.0-or-later
"""An image with one package in another version, made from the disk of a built image.

The other version is one that Debian's archive still offers beside the newest. Its files are
written into a copy of the base's file system by debugfs, and dpkg's database is changed with
them: what remains is what installing that package leaves, while every other file stays where
it was. Maintainer scripts do not run, so only packages of plain libraries fit.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from sysqcache.base.errors import ImageBuildError
from sysqcache.setup.apt.private import PrivateApt
from sysqcache.setup.images.debian import DebianParts
from sysqcache.setup.work import Work
from sysqcache.spec import catalog
from sysqcache.spec.recipe import UpgradedRecipe

_STATUS: Final = "/var/lib/dpkg/status"
_MERGED: Final = frozenset({"bin", "lib", "lib32", "lib64", "libx32", "sbin"})
"""Directories at the top that are links into /usr."""


def build(
    recipe: UpgradedRecipe, apt: PrivateApt, scratch: Path, output: Path, qemu_img: Path, work: Work
) -> DebianParts:
    """Write disk, kernel and initrd of the image into ``output``.

    :raises ImageBuildError: the archive has no other version, or a program failed.
    """
    base = catalog.resolve(recipe.base)
    if base.disk is None or base.kernel is None or base.initrd is None:
        raise ImageBuildError(f"{recipe.base} has no disk")
    raw = scratch / "disk.raw"
    work.run([qemu_img, "convert", "-O", "raw", base.disk, raw])
    files = FileSystem(raw, scratch, work)
    status = files.read(_STATUS).decode()
    old = installed_version(status, recipe.package)
    new = _other_version(apt.versions(recipe.package), old, recipe.package)
    [deb] = apt.download(f"{recipe.package}={new}")
    status = _install(files, deb, scratch / "unpacked", status, apt, work)
    work.run(["e2fsck", "-fn", raw])
    work.run([qemu_img, "convert", "-O", "qcow2", raw, output / catalog.DISK])
    raw.unlink()
    for source in (base.kernel, base.initrd):
        shutil.copy(source, output)
    return DebianParts(
        _kernel_release(status),
        tuple(_packages(status)),
        {"base": recipe.base, "changed": {recipe.package: [old, new]}},
    )


def _other_version(versions: Sequence[str], old: str, package: str) -> str:
    for version in versions:
        if version != old:
            return version
    raise ImageBuildError(
        f"Debian's archive has no version of {package} but {old}",
        hint="its updates and security suites hold others, when they are configured",
    )


def _install(
    files: FileSystem, deb: Path, tree: Path, status: str, apt: PrivateApt, work: Work
) -> str:
    """Write the package's files and its entry in dpkg's database; gives the new status."""
    apt.unpack(deb, tree)
    work.run(["dpkg-deb", "-e", deb, tree / "DEBIAN"])
    control = (tree / "DEBIAN" / "control").read_text()
    name = _field(control, "Package")
    sums = tree / "DEBIAN" / "md5sums"
    _same_files(files, name, tree)
    for path in sorted(tree.rglob("*")):
        place = PurePosixPath("/", path.relative_to(tree))
        if (path.is_dir() and not path.is_symlink()) or place.parts[1] == "DEBIAN":
            continue
        files.replace(merged(place), path)
    files.replace(_info(name, "md5sums"), sums)
    status = with_control(status, name, control)
    entry = tree / "DEBIAN" / "status"
    entry.write_text(status)
    files.replace(PurePosixPath(_STATUS), entry)
    return status


def _same_files(files: FileSystem, name: str, tree: Path) -> None:
    """Refuse a package that brings or lacks a file: directories would have to be made."""
    before = set(files.read(str(_info(name, "list"))).decode().split("\n")) - {"", "/."}
    ours = {f"/{path.relative_to(tree)}" for path in tree.rglob("*")}
    ours = {path for path in ours if not path.startswith("/DEBIAN")}
    if before != ours:
        raise ImageBuildError(
            f"the other version of {name} has other files: {sorted(before ^ ours)[:4]}"
        )


def _info(name: str, what: str) -> PurePosixPath:
    # libraries are "Multi-Arch: same", so their architecture is in the name
    return PurePosixPath(f"/var/lib/dpkg/info/{name}:amd64.{what}")


def merged(path: PurePosixPath) -> PurePosixPath:
    """Where a package's file is on a system with merged /usr."""
    return PurePosixPath("/usr", *path.parts[1:]) if path.parts[1] in _MERGED else path


class FileSystem:
    """Reads and replaces files of an ext4 file system in a raw file, through debugfs.

    :param scratch: directory for what is read.
    """

    def __init__(self, raw: Path, scratch: Path, work: Work) -> None:
        self._raw = raw
        self._copy = scratch / "debugfs.copy"
        self._work = work

    def read(self, path: str) -> bytes:
        """Contents of a regular file.

        :raises ImageBuildError: there is none.
        """
        self._copy.unlink(missing_ok=True)
        self._work.run(["debugfs", "-R", f'dump "{path}" "{self._copy}"', self._raw])
        if not self._copy.is_file():
            raise ImageBuildError(f"the base image has no {path}")
        return self._copy.read_bytes()

    def replace(self, path: PurePosixPath, source: Path) -> None:
        """Put a file or symbolic link of root's in the place of an old one.

        :raises ImageBuildError: it does not read back.
        """
        commands = self._copy.with_name("debugfs.commands")
        commands.write_text("\n".join(_replace(path, source)) + "\n")
        self._work.run(["debugfs", "-w", "-f", commands, self._raw])
        # debugfs ends with 0 whatever happened
        if not source.is_symlink() and self.read(str(path)) != source.read_bytes():
            raise ImageBuildError(f"debugfs did not write {path}")


def _replace(path: PurePosixPath, source: Path) -> Iterator[str]:
    yield f'cd "{path.parent}"'  # "write" and "symlink" know names only
    yield f'rm "{path.name}"'
    if source.is_symlink():
        yield f'symlink "{path.name}" "{source.readlink()}"'
        return
    mode = 0o755 if source.stat().st_mode & 0o100 else 0o644
    yield f'write "{source}" "{path.name}"'
    yield f'set_inode_field "{path.name}" mode 0{0o100000 | mode:o}'
    yield f'set_inode_field "{path.name}" uid 0'
    yield f'set_inode_field "{path.name}" gid 0'


def _field(paragraph: str, name: str) -> str:
    match = re.search(rf"^{name}: *(.*)$", paragraph, re.MULTILINE)
    return match.group(1) if match else ""


def _paragraphs(status: str) -> list[str]:
    return [one for one in status.strip("\n").split("\n\n") if one]


def installed_version(status: str, package: str) -> str:
    """Version of an installed package, by the text of dpkg's status file.

    :raises ImageBuildError: it is not installed.
    """
    for paragraph in _paragraphs(status):
        if _field(paragraph, "Package") == package:
            return _field(paragraph, "Version")
    raise ImageBuildError(f"the base image has no package {package}")


def with_control(status: str, package: str, control: str) -> str:
    """The status file after the package with this control file is installed."""
    head, rest = control.strip("\n").split("\n", 1)
    new = f"{head}\nStatus: install ok installed\n{rest}"
    paragraphs = [new if _field(one, "Package") == package else one for one in _paragraphs(status)]
    return "\n\n".join(paragraphs) + "\n\n"


def _packages(status: str) -> Iterator[str]:
    for one in _paragraphs(status):
        yield f"{_field(one, 'Package')}_{_field(one, 'Version')}"


def _kernel_release(status: str) -> str:
    names = (_field(one, "Package") for one in _paragraphs(status))
    kernels = [name for name in names if re.match(r"linux-image-\d", name)]
    return max(kernels).removeprefix("linux-image-") if kernels else ""
