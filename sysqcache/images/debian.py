# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian guest: a real system with its stock kernel, made by mmdebstrap.

Works as root, and without root through user namespaces (mmdebstrap's own choice).
No loop device and no mount is needed: mke2fs fills the file system itself.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from sysqcache.apt.private import host_options
from sysqcache.apt.sources import Source
from sysqcache.errors import ImageBuildError
from sysqcache.images.catalog import DISK, INITRD, KERNEL
from sysqcache.work import Work

RELEASE: Final = "bookworm"
PACKAGES: Final = (
    "systemd", "systemd-sysv", "dbus", "udev", "kmod", "iproute2", "passwd",
    "linux-image-cloud-amd64", "zstd",  # zstd packs the initial RAM disk
    "qemu-guest-agent", "openssh-server", "nginx", "gcc", "libc6-dev", "python3", "perl",
)  # fmt: skip
DISK_SIZE: Final = 4 << 30
FS_UUID: Final = "5f2d1c0e-7c1b-4d57-9f6e-0d1f2a3b4c5d"
"""Fixed, so that two builds of the same packages differ as little as possible."""


@dataclass(frozen=True)
class DebianParts:
    """What was built: the kernel's release and the packages, ``name_version``."""

    kernel_release: str
    packages: tuple[str, ...]


def bootstrap(sources: Sequence[Source], scratch: Path, work: Work) -> Path:
    """Install the packages with mmdebstrap; gives a tar archive of the root file system."""
    listing = scratch / "debian.sources"
    listing.write_text("\n".join(source.deb822() for source in sources))
    overlay, setup, packages = _inputs(scratch)
    root = scratch / "root.tar"
    options = [f"--aptopt={name} {_quoted(value)}" for name, value in host_options().items()]
    work.run(
        [
            "mmdebstrap",
            "--mode=auto",
            "--variant=minbase",
            "--dpkgopt=force-unsafe-io",
            '--aptopt=Acquire::Languages "none"',
            *options,
            f"--include={','.join(PACKAGES)}",
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


def _inputs(scratch: Path) -> tuple[Path, Path, Path]:
    """Files for mmdebstrap's hooks: overlay archive, set-up script, where the package list goes."""
    overlay, setup = scratch / "overlay.tar", scratch / "setup.sh"
    with resources.as_file(resources.files("sysqcache.images") / "data") as data:
        setup.write_bytes((data / "debian-setup.sh").read_bytes())
        with tarfile.open(overlay, "w") as archive:
            archive.add(data / "debian", ".", filter=_as_root)
    return overlay, setup, scratch / "packages.txt"


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = "root"
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def make_disk(root: Path, scratch: Path, target: Path, qemu_img: Path, work: Work) -> DebianParts:
    """Turn the archive into disk, kernel and initrd below ``target``.

    :raises ImageBuildError: the system has no kernel, or a program failed.
    """
    raw, tree = scratch / "disk.raw", scratch / "root"
    tree.mkdir()
    with raw.open("wb") as file:
        file.truncate(DISK_SIZE)
    script = (
        "set -e; trap 'rm -rf \"$2\"' EXIT; "
        'tar -C "$2" --numeric-owner --exclude="./dev/*" -xpf "$1"; '
        'mkfs.ext4 -q -F -L root -U "$4" -E hash_seed="$4" -d "$2" "$3"; '
        'cp "$2"/boot/vmlinuz-* "$2"/boot/initrd.img-* "$5"; chmod a+r "$5"/*'
    )
    work.run([*_namespace(), "sh", "-c", script, "sh", root, tree, raw, FS_UUID, target])
    release = _take(target, "vmlinuz-", KERNEL)
    _take(target, "initrd.img-", INITRD)
    work.run([qemu_img, "convert", "-O", "qcow2", raw, target / DISK])
    raw.unlink()
    return DebianParts(release, tuple((scratch / "packages.txt").read_text().split()))


def _namespace() -> list[str]:
    """Without root, a user namespace in which files can belong to any user of the guest."""
    return [] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--map-auto"]


def _take(target: Path, prefix: str, name: str) -> str:
    found = sorted(target.glob(prefix + "*"))
    if not found:
        raise ImageBuildError(f"the new system has no /boot/{prefix}*")
    found[-1].rename(target / name)
    return found[-1].name.removeprefix(prefix)
