# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian guest: a real system with its stock kernel, made by mmdebstrap.

Works as root, and without root through user namespaces (mmdebstrap's own choice).
"""

from __future__ import annotations

import shlex
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sysqcache.base.errors import ImageBuildError
from sysqcache.setup.apt.private import host_options
from sysqcache.setup.apt.sources import Source
from sysqcache.setup.images import disk
from sysqcache.setup.work import Work
from sysqcache.spec.arch import get_arch
from sysqcache.spec.catalog import DISK, INITRD, KERNEL
from sysqcache.spec.recipe import DebianRecipe, Image

# what is installed, for image.json
_LIST: Final = r'dpkg-query -W -f "\${Package}_\${Version}\n" > /packages'

_EMPTIED: Final = "etc/machine-id"


@dataclass(frozen=True)
class DebianParts:
    """What was built.

    :param packages: ``name_version`` of each.
    :param notes: more for image.json.
    """

    kernel_release: str
    packages: tuple[str, ...]
    notes: dict[str, object] = field(default_factory=dict)


def bootstrap(
    image: Image, recipe: DebianRecipe, sources: Sequence[Source], scratch: Path, work: Work
) -> Path:
    """Install the packages with mmdebstrap; gives a tar archive of the root file system."""
    listing = scratch / "debian.sources"
    listing.write_text("\n".join(source.deb822() for source in sources))
    overlay, packages = _overlay(image, scratch), scratch / "packages.txt"
    setup = [hook for script in image.scripts for hook in _run(script)]
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
            f"--include={','.join((recipe.kernel, *recipe.packages))}",
            f"--customize-hook=tar-in {overlay} /",
            *setup,
            f"--customize-hook=chroot \"$1\" sh -c '{_LIST}'",
            f"--customize-hook=download /packages {packages}",
            '--customize-hook=rm "$1/packages"',
            recipe.suite,
            root,
            listing,
        ],
        cwd=scratch,
    )
    restore(root, image.files)
    return root


def restore(root: Path, files: Sequence[Path]) -> None:
    """Put back into the archive what mmdebstrap (1.3.5) empties after the image's files are there.

    With an empty machine id each start from a fresh overlay would make up one of its own.
    """
    own = next((tree / _EMPTIED for tree in reversed(files) if (tree / _EMPTIED).exists()), None)
    if own is not None:
        with tarfile.open(root, "a") as archive:
            archive.add(own, f"./{_EMPTIED}", filter=_as_root)


def _quoted(value: str) -> str:
    return f'"{value}"'


def _overlay(image: Image, scratch: Path) -> Path:
    """An archive of the image's own files."""
    overlay = scratch / "overlay.tar"
    with tarfile.open(overlay, "w") as archive:
        for files in image.files:
            archive.add(files, ".", filter=_as_root)
    return overlay


def _run(script: Path) -> list[str]:
    """Hooks that run a set-up script in the new system."""
    return [
        f"--customize-hook=upload {shlex.quote(str(script))} /setup.sh",
        '--customize-hook=chroot "$1" sh /setup.sh',
        '--customize-hook=rm "$1/setup.sh"',
    ]


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
    disk.make(recipe.disk, root, raw, target, work)
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
