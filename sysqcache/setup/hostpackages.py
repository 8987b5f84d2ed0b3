# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian packages that set-up needs, and which of them are missing.

Standard library only: `python3 -m sysqcache.setup.hostpackages` runs before the virtual
environment exists and prints the missing packages, one a line; with the argument `test`
those that tests need as well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from sysqcache.base.errors import SetupError

Part = Literal["python", "engine", "image", "foreign", "test"]


@dataclass(frozen=True)
class HostPackage:
    """A Debian package.

    :param part: what needs it.
    :param present: tells whether what the package brings is there, however it came.
    """

    name: str
    part: Part
    present: Callable[[], bool]


def _program(name: str) -> Callable[[], bool]:
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return lambda: shutil.which(name, path=path) is not None


def _library(module: str) -> Callable[[], bool]:
    def present() -> bool:
        if not shutil.which("pkg-config"):
            return False
        done = subprocess.run(["pkg-config", "--exists", module], check=False, capture_output=True)
        return done.returncode == 0

    return present


def _file(path: str) -> Callable[[], bool]:
    return lambda: Path(path).exists()


def _python_headers() -> bool:
    return Path(sysconfig.get_paths()["include"], "Python.h").exists()


def _fuzzer_runtime() -> bool:
    name = "clang/*/lib/linux/libclang_rt.fuzzer-x86_64.a"
    return any(Path("/usr/lib").glob(f"llvm-*/lib/{name}"))


def _libvirt_driver() -> bool:
    name = "libvirt/connection-driver/libvirt_driver_qemu.so"
    return any(Path("/usr").glob(f"lib*/{name}")) or any(Path("/usr/lib").glob(f"*/{name}"))


def _unprivileged_ready() -> bool:
    return os.geteuid() == 0 or _program("newuidmap")()


_KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"

PACKAGES: Final = (
    HostPackage("python3-venv", "python", lambda: find_spec("ensurepip") is not None),
    HostPackage("python3-dev", "python", _python_headers),
    HostPackage("libvirt-dev", "python", _library("libvirt")),
    HostPackage("debian-archive-keyring", "engine", _file(_KEYRING)),
    HostPackage("dpkg-dev", "engine", _program("dpkg-source")),
    HostPackage("patch", "engine", _program("patch")),
    HostPackage("gcc", "engine", _program("gcc")),
    HostPackage("libc6-dev", "engine", _file("/usr/include/stdio.h")),
    HostPackage("binutils", "engine", _program("strip")),
    HostPackage("ninja-build", "engine", _program("ninja")),
    HostPackage("pkg-config", "engine", _program("pkg-config")),
    HostPackage("libglib2.0-dev", "engine", _library("glib-2.0")),
    HostPackage("libpixman-1-dev", "engine", _library("pixman-1")),
    HostPackage("libfdt-dev", "engine", _file("/usr/include/libfdt.h")),
    HostPackage("libslirp-dev", "engine", _library("slirp")),
    HostPackage("libseccomp-dev", "engine", _library("libseccomp")),
    HostPackage("zlib1g-dev", "engine", _library("zlib")),
    HostPackage("libxxhash-dev", "engine", _library("libxxhash")),
    HostPackage("libzstd-dev", "engine", _library("libzstd")),
    HostPackage("libbz2-dev", "engine", _file("/usr/include/bzlib.h")),
    HostPackage("libaio-dev", "engine", _file("/usr/include/libaio.h")),
    HostPackage("liburing-dev", "engine", _library("liburing")),
    HostPackage("nettle-dev", "engine", _library("hogweed")),
    HostPackage("mmdebstrap", "image", _program("mmdebstrap")),
    HostPackage("e2fsprogs", "image", _program("mkfs.ext4")),
    HostPackage("fdisk", "image", _program("sfdisk")),
    HostPackage("uidmap", "image", _unprivileged_ready),
    HostPackage("qemu-user-static", "foreign", _program("qemu-aarch64-static")),
    HostPackage("arch-test", "foreign", _program("arch-test")),
    HostPackage("xfsprogs", "test", _program("mkfs.xfs")),
    HostPackage("btrfs-progs", "test", _program("mkfs.btrfs")),
    HostPackage("f2fs-tools", "test", _program("mkfs.f2fs")),
    HostPackage("squashfs-tools", "test", _program("mksquashfs")),
    HostPackage("erofs-utils", "test", _program("mkfs.erofs")),
    HostPackage("dosfstools", "test", _program("mkfs.vfat")),
    HostPackage("mtools", "test", _program("mcopy")),
    HostPackage("grub-common", "test", _program("grub-mkimage")),
    HostPackage("grub-pc-bin", "test", _file("/usr/lib/grub/i386-pc/boot.img")),
    HostPackage("chromium", "test", _program("chromium")),
    HostPackage("libvirt-daemon", "test", _program("libvirtd")),
    HostPackage("libvirt-daemon-driver-qemu", "test", _libvirt_driver),
    HostPackage("libvirt-clients", "test", _program("virsh")),
    HostPackage("apparmor", "test", _program("apparmor_parser")),
    HostPackage("clang", "test", _program("clang")),
    HostPackage("libclang-rt-14-dev", "test", _fuzzer_runtime),
)
"""Every package, in the order in which they are listed to the user."""


SETUP: Final[tuple[Part, ...]] = ("python", "engine", "image")
"""What everybody needs; Debian images of other architectures and tests need more."""

TESTS: Final[tuple[Part, ...]] = (*SETUP, "foreign", "test")


def missing(parts: Iterable[Part] = SETUP) -> list[str]:
    """Names of the packages of ``parts`` whose contents are not there."""
    wanted = set(parts)
    return [p.name for p in PACKAGES if p.part in wanted and not p.present()]


def install_command(names: Iterable[str]) -> str:
    """The command that installs ``names``, to be shown or pasted."""
    return "apt-get install --no-install-recommends " + " ".join(names)


def require(part: Part) -> None:
    """Check that everything ``part`` needs is installed.

    :raises SetupError: names every missing package and the command that installs them.
    """
    names = missing([part])
    if names:
        raise SetupError(f"packages are missing: {', '.join(names)}", hint=install_command(names))


if __name__ == "__main__":
    wanted = TESTS if "test" in sys.argv[1:] else SETUP
    sys.stdout.write("".join(f"{name}\n" for name in missing(wanted)))
