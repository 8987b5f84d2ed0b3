# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian guest: a real system with its stock kernel, made by mmdebstrap.

Works as root, and without root through user namespaces (mmdebstrap's own choice).
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from sysqcache.base.errors import ImageBuildError
from sysqcache.setup.apt.private import host_options
from sysqcache.setup.apt.sources import Source
from sysqcache.setup.images import disk
from sysqcache.setup.images.recipes import RELEASE, DebianRecipe
from sysqcache.setup.work import Work
from sysqcache.spec.arch import get_arch
from sysqcache.spec.catalog import DISK, INITRD, KERNEL


@dataclass(frozen=True)
class DebianParts:
    """What was built.

    :param packages: ``name_version`` of each.
    :param notes: more for image.json.
    """

    kernel_release: str
    packages: tuple[str, ...]
    notes: dict[str, object] = field(default_factory=dict)


def bootstrap(recipe: DebianRecipe, sources: Sequence[Source], scratch: Path, work: Work) -> Path:
    """Install the packages with mmdebstrap; gives a tar archive of the root file system."""
    listing = scratch / "debian.sources"
    listing.write_text("\n".join(source.deb822() for source in sources))
    overlay, setup, packages = _inputs(recipe, scratch)
    root = scratch / "root.tar"
    options = [f"--aptopt={name} {_quoted(value)}" for name, value in host_options().items()]
    work.run(
        [
            "mmdebstrap",
            "--mode=auto",
            f"--architectures={get_arch(recipe.arch).debian_name}",
            "--variant=minbase",
            "--dpkgopt=force-unsafe-io",
            '--aptopt=Acquire::Languages "none"',
            *options,
            f"--include={','.join(recipe.packages)}",
            f"--customize-hook=tar-in {overlay} /",
            f"--customize-hook=upload {setup} /setup.sh",
            '--customize-hook=chroot "$1" sh /setup.sh',
            f"--customize-hook=download /packages {packages}",
            '--customize-hook=rm "$1/setup.sh" "$1/packages"',
            RELEASE,
            root,
            listing,
        ],
        cwd=scratch,
    )
    return root


def _quoted(value: str) -> str:
    return f'"{value}"'


def _inputs(recipe: DebianRecipe, scratch: Path) -> tuple[Path, Path, Path]:
    """Files for mmdebstrap's hooks: overlay archive, set-up script, where the package list goes."""
    overlay, setup = scratch / "overlay.tar", scratch / "setup.sh"
    with resources.as_file(resources.files("sysqcache.setup.images") / "data") as data:
        setup.write_bytes((data / "debian-setup.sh").read_bytes())
        with tarfile.open(overlay, "w") as archive:
            for name in ("debian", *recipe.files):
                archive.add(data / name, ".", filter=_as_root)
    return overlay, setup, scratch / "packages.txt"


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = "root"
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def make_files(
    recipe: DebianRecipe, root: Path, scratch: Path, target: Path, qemu_img: Path, work: Work
) -> DebianParts:
    """Turn the archive into disk, kernel and initrd below ``target``.

    :raises ImageBuildError: the system has no kernel, or a program failed.
    """
    raw = scratch / "disk.raw"
    disk.make(recipe.layout, root, raw, target, work)
    release = _take(target, "vmlinuz-", KERNEL)
    _take(target, "initrd.img-", INITRD)
    work.run([qemu_img, "convert", "-O", "qcow2", raw, target / DISK])
    raw.unlink()
    return DebianParts(release, tuple((scratch / "packages.txt").read_text().split()))


def _take(target: Path, prefix: str, name: str) -> str:
    found = sorted(target.glob(prefix + "*"))
    if not found:
        raise ImageBuildError(f"the new system has no /boot/{prefix}*")
    found[-1].rename(target / name)
    return found[-1].name.removeprefix(prefix)
