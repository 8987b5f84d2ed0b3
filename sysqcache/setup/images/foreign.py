# SPDX-License-Identifier: GPL-2.0-or-later
"""Running programs of another architecture while an image is made of them.

Debian's packages bring scripts that run when they are installed. The kernel hands programs
of another architecture to qemu-user-static if it is told how (binfmt_misc); where systemd
runs, that package has told it already. Elsewhere it is done here, for the time of a build.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sysqcache.base.errors import ImageBuildError
from sysqcache.setup import hostpackages
from sysqcache.setup.work import Work
from sysqcache.spec.arch import Arch

BINFMT: Final = Path("/proc/sys/fs/binfmt_misc")
_RULES: Final = Path("/usr/lib/binfmt.d")
_REMOVE: Final = "-1"


@contextlib.contextmanager
def programs(arch: Arch, work: Work) -> Iterator[None]:
    """Let this machine run programs of ``arch`` as long as the body runs.

    Afterwards the machine is as it was.
    :raises SetupError: packages are missing.
    :raises ImageBuildError: it can't, and we may not change that.
    """
    hostpackages.require("foreign")
    if _runs(arch):
        yield
        return
    if os.geteuid() != 0:
        raise ImageBuildError(
            f"this machine does not run programs of {arch.debian_name}",
            hint=f"as root: {command(arch)}",
        )
    with _mounted(work), _registered(arch):
        if not _runs(arch):
            raise ImageBuildError(
                f"this machine does not run programs of {arch.debian_name}, "
                "though its kernel was told how",
                hint=f"arch-test {arch.debian_name}",
            )
        yield


def command(arch: Arch) -> str:
    """What root has to do, to be shown or pasted."""
    mount = f"mount -t binfmt_misc binfmt_misc {BINFMT}"
    return f"{mount}; cat {rule(arch)} > {BINFMT}/register"


def rule(arch: Arch) -> Path:
    """The file of qemu-user-static with the line that the kernel wants to be told."""
    return _RULES / f"qemu-{arch.name}.conf"


def _runs(arch: Arch) -> bool:
    """Whether a program of ``arch`` runs here: one is tried."""
    done = subprocess.run(["arch-test", arch.debian_name], check=False, capture_output=True)
    return done.returncode == 0


@contextlib.contextmanager
def _mounted(work: Work) -> Iterator[None]:
    if (BINFMT / "register").exists():
        yield
        return
    hint = "the kernel needs binfmt_misc, and root the right to mount it"
    work.run(["mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT], hint=hint)
    try:
        yield
    finally:
        work.run(["umount", BINFMT])


@contextlib.contextmanager
def _registered(arch: Arch) -> Iterator[None]:
    entry = BINFMT / f"qemu-{arch.name}"
    try:
        if entry.exists():
            entry.write_text(_REMOVE)  # it does not work
        (BINFMT / "register").write_text(rule(arch).read_text())
    except OSError as err:
        raise ImageBuildError(
            f"the kernel can't be told how to run programs of {arch.debian_name}: {err}",
            hint=f"as root: {command(arch)}",
        ) from err
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            entry.write_text(_REMOVE)
